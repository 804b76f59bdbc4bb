"""The fields that control the prefix cache and the place in the queue, in both completion APIs."""

from __future__ import annotations

from pydantic import BaseModel, Field

from llamafast.request import CacheSettings

_INT32 = 2**31


class CacheFields(BaseModel):
    """Fields of vLLM (cache_salt, priority), of llama-server (cache_prompt, n_keep) and of llamafast."""

    cache_salt: str = Field(
        "", min_length=1, max_length=4096, description="Only requests with an equal salt share cached prefixes."
    )
    cache_prompt: bool = Field(
        True,
        description="false: the request neither reads nor fills the prefix cache. Logits with and without the cache "
        "differ only by rounding.",
    )
    priority: int = Field(0, ge=-_INT32, lt=_INT32, description="Requests with a lower value start first.")
    n_keep: int | None = Field(
        None,
        ge=-1,
        lt=_INT32,
        description="With context_shift: the number of prompt tokens that are kept when the context is full; -1: all.",
    )
    return_cache_info: bool = Field(
        False, description="Report in usage.prompt_tokens_details.cache_miss where and why the cached prefix ended."
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
