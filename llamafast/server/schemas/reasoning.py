"""The fields of a chat that control reasoning: effort, length, and visibility."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from llamafast.errors import InvalidRequestError
from llamafast.server.chat.request import ReasoningSettings

T = TypeVar("T")

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Other servers' names for the thinking budget: vLLM's, llama-server's and older ones.
BUDGET_ALIASES = {
    "thinking_token_budget": "thinking_budget",
    "thinking_budget_tokens": "thinking_budget",
    "reasoning_budget": "thinking_budget",
    "reasoning_budget_tokens": "thinking_budget",
}


class ReasoningOptions(BaseModel):
    """OpenRouter's object with the reasoning settings."""

    model_config = ConfigDict(strict=True, extra="allow")

    effort: Effort | None = None
    max_tokens: int | None = Field(None, ge=0, description="The same as thinking_budget.")
    enabled: bool | None = Field(None, description="The same as enable_thinking.")
    exclude: bool | None = Field(None, description="true: the same as include_reasoning false.")


class ReasoningFields(BaseModel):
    """The fields that control reasoning. Two fields for the same setting must have equal values."""

    reasoning_effort: Effort | None = Field(
        None,
        description="The template variable of this name. If the template has a switch, none and minimal turn "
        "reasoning off, and other values turn it on.",
    )
    enable_thinking: bool | None = Field(None, description="Turn reasoning on or off, if the template has a switch.")
    thinking_budget: int | None = Field(
        None,
        ge=-1,
        lt=2**31,
        description="Maximum tokens of reasoning. At the limit a closing message ends it. -1: no limit. Also "
        "`thinking_token_budget`, `thinking_budget_tokens`, `reasoning_budget` and `reasoning_budget_tokens`.",
    )
    include_reasoning: bool | None = Field(
        None, description="false: the answer does not contain the reasoning; its tokens are still counted."
    )
    reasoning: ReasoningOptions | None = Field(
        None, description="OpenRouter's object for the same settings: effort, max_tokens, enabled and exclude."
    )

    def reasoning_settings(self) -> ReasoningSettings:
        """The reasoning settings. Raises InvalidRequestError if two fields for one setting have different values."""
        inner = self.reasoning or ReasoningOptions.model_construct()
        is_shown = None if inner.exclude is None else not inner.exclude
        return ReasoningSettings(
            is_shown=_agreed("include_reasoning", self.include_reasoning, "reasoning.exclude", is_shown) is not False,
            budget=_agreed("thinking_budget", self.thinking_budget, "reasoning.max_tokens", inner.max_tokens),
            effort=_agreed("reasoning_effort", self.reasoning_effort, "reasoning.effort", inner.effort),
            is_enabled=_agreed("enable_thinking", self.enable_thinking, "reasoning.enabled", inner.enabled),
        )


def _agreed(name: str, value: T | None, other_name: str, other: T | None) -> T | None:
    """The value of a setting that two fields may give."""
    if value is not None and other is not None and value != other:
        raise InvalidRequestError(
            f"'{name}' and '{other_name}' are fields for the same setting and have different values", param=other_name
        )
    return other if value is None else value
