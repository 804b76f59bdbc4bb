"""What a request says about the prefix cache and its place in the queue: fields of both completion APIs."""

from __future__ import annotations

from pydantic import BaseModel, Field

from llamafast.request import CacheSettings

_INT32 = 2**31


class CacheFields(BaseModel):
    """cache_salt and priority are vLLM's, cache_prompt and n_keep are llama-server's."""

    cache_salt: str = Field(
        "", min_length=1, max_length=4096, description="Prompts share prefixes only where this is equal."
    )
    cache_prompt: bool = Field(
        True,
        description="false: nothing comes from the prefix cache, nothing goes into it. Logits with it and without are "
        "equal up to rounding, as they are between steps of different sizes.",
    )
    priority: int = Field(0, ge=-_INT32, lt=_INT32, description="Requests with a lower value go first.")
    n_keep: int | None = Field(
        None,
        ge=-1,
        lt=_INT32,
        description="With context_shift: prompt tokens (and a BOS) that stay when a full context drops some; -1: all.",
    )
    return_cache_info: bool = Field(
        False, description="Say in usage.prompt_tokens_details.cache_miss where and why the prefix cache had no more."
    )

    @property
    def cache_settings(self) -> CacheSettings:
        """These fields by the names of the engine's Request."""
        return {
            "cache_salt": self.cache_salt,
            "use_cache": self.cache_prompt,
            "priority": self.priority,
            "n_keep": self.n_keep,
        }
