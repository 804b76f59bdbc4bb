"""What a request says about reasoning: how hard, how long, whether to show it. Fields of chats."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from llamafast.chat.prompt.reasoning_state import REASONING_SWITCHES
from llamafast.chat.prompt.turns import TrustedText
from llamafast.errors import InvalidRequestError

T = TypeVar("T")

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Other servers' names for the thinking budget: vLLM's, llama-server's and older ones.
BUDGET_ALIASES = {
    "thinking_token_budget": "thinking_budget",
    "thinking_budget_tokens": "thinking_budget",
    "reasoning_budget": "thinking_budget",
    "reasoning_budget_tokens": "thinking_budget",
}

_OFF = ("none", "minimal")


class ReasoningOptions(BaseModel):
    """OpenRouter's object: the same settings under one name."""

    model_config = ConfigDict(strict=True, extra="allow")

    effort: Effort | None = None
    max_tokens: int | None = Field(None, ge=0, description="As thinking_budget.")
    enabled: bool | None = Field(None, description="As enable_thinking.")
    exclude: bool | None = Field(None, description="true: as include_reasoning false.")


class ReasoningFields(BaseModel):
    """Of two fields that say the same thing the values must be equal."""

    reasoning_effort: Effort | None = Field(
        None,
        description="Reaches the chat template under this name; none and minimal switch reasoning off where the "
        "template has a switch, the others switch it on.",
    )
    enable_thinking: bool | None = Field(None, description="Reasoning on or off, where the template has a switch.")
    thinking_budget: int | None = Field(
        None,
        ge=-1,
        lt=2**31,
        description="The most tokens of reasoning, then a closing message follows; -1: no limit. Also "
        "`thinking_token_budget`, `thinking_budget_tokens`, `reasoning_budget` and `reasoning_budget_tokens`.",
    )
    include_reasoning: bool | None = Field(None, description="false: the reasoning is not shown, only counted.")
    reasoning: ReasoningOptions | None = Field(None, description="effort, max_tokens, enabled and exclude, as above.")

    @property
    def shows_reasoning(self) -> bool:
        """Whether the answer holds the reasoning."""
        exclude = None if self.reasoning is None or self.reasoning.exclude is None else not self.reasoning.exclude
        return _agreed("include_reasoning", self.include_reasoning, "reasoning.exclude", exclude) is not False

    @property
    def budget(self) -> int | None:
        """The most tokens of reasoning, -1: no limit; None: the request does not say."""
        inner = None if self.reasoning is None else self.reasoning.max_tokens
        return _agreed("thinking_budget", self.thinking_budget, "reasoning.max_tokens", inner)

    def check_reasoning(self) -> None:
        """Raises InvalidRequestError where two fields disagree."""
        _ = self.shows_reasoning, self.budget, self._effort, self._enabled

    def switches(self, known: Container[str]) -> dict[str, object]:
        """The template's variables that these fields set. known: those that it reads."""
        effort, enabled = self._effort, self._enabled
        if enabled is None and effort is not None:
            enabled = effort not in _OFF
        values: dict[str, object] = {} if effort is None else {"reasoning_effort": TrustedText(effort)}
        if enabled is not None:
            values |= {name: enabled for name in REASONING_SWITCHES if name in known}
        return values

    @property
    def _effort(self) -> Effort | None:
        inner = None if self.reasoning is None else self.reasoning.effort
        return _agreed("reasoning_effort", self.reasoning_effort, "reasoning.effort", inner)

    @property
    def _enabled(self) -> bool | None:
        inner = None if self.reasoning is None else self.reasoning.enabled
        return _agreed("enable_thinking", self.enable_thinking, "reasoning.enabled", inner)


def _agreed(name: str, value: T | None, other_name: str, other: T | None) -> T | None:
    if value is not None and other is not None and value != other:
        raise InvalidRequestError(f"'{name}' and '{other_name}' say different things", param=other_name)
    return other if value is None else value
