"""The body of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from pydantic.config import JsonDict

from llamafast.errors import InvalidRequestError
from llamafast.server.schemas.common import NO_OP, SPECIAL_ALIASES, RequestBody
from llamafast.server.schemas.sampling import MAX_LOGPROBS, SamplingFields

_PROMPT_SCHEMA: JsonDict = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


class CompletionBody(RequestBody):
    """The body of a completion: OpenAI's fields and vLLM's extra sampling fields."""

    no_op: ClassVar[frozenset[str]] = NO_OP | {"continue_final_message", "add_generation_prompt"}
    aliases: ClassVar[Mapping[str, str]] = {**SamplingFields.aliases, **SPECIAL_ALIASES}

    # A union of four list types would try each type on 100,000 token ids. prompts() distinguishes them faster.
    prompt: object = Field(
        ..., description="A text, a list of token ids, or a list of either.", json_schema_extra=_PROMPT_SCHEMA
    )
    add_special_tokens: bool = Field(
        True,
        description="Add the BOS and EOS that the vocabulary requires; no BOS if the text already begins with one. "
        "Also `add_special`.",
    )
    suffix: str | None = Field(
        None, description="The text after the completion; needs a model with fill-in-the-middle tokens."
    )
    max_tokens: int = Field(16, description="Maximum tokens of each choice.")
    echo: bool = Field(False, description="Return the prompt before each completion.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Return logprobs, with this many alternatives per token."
    )
    best_of: int | None = Field(
        None, description="Generate this many choices and return the n with the highest mean logprob."
    )

    def check(self) -> None:
        """Check rules that involve several fields. Raises InvalidRequestError."""
        super().check()
        if self.echo and self.suffix and self.logprobs is not None:
            raise InvalidRequestError("suffix cannot be combined with both echo and logprobs", param="suffix")
        if self.suffix and len(self.prompts()) > 1:
            raise InvalidRequestError("suffix needs exactly one prompt", param="suffix")
        if self.stream and self.best_of is not None and self.best_of > self.n:
            raise InvalidRequestError("best_of greater than n cannot be streamed", param="best_of")

    @property
    def num_scored(self) -> int | None:
        """Number of alternatives per prompt token, for prompt_logprobs and for echo with logprobs; None: no scores."""
        wanted = (self.prompt_logprobs, self.logprobs if self.echo else None)
        return max((number for number in wanted if number is not None), default=None)

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or a list of token ids. Raises InvalidRequestError."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt, list) and prompt:
            if _all_of(prompt, int):
                return [prompt]
            if _all_of(prompt, str):
                return list(prompt)
            if _all_of(prompt, list) and all(_all_of(token_ids, int) for token_ids in prompt):
                return list(prompt)
        elif isinstance(prompt, list):
            raise InvalidRequestError("the prompt is empty", param="prompt")
        raise InvalidRequestError(
            "prompt must be a string, a list of strings, a list of token ids, or a list of lists of token ids",
            param="prompt",
        )


def _all_of(items: list[object], type_: type) -> bool:
    # The exact type: True is an int in Python, but not a token id.
    return set(map(type, items)) <= {type_}
