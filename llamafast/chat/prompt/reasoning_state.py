"""Reasoning: the variables that switch it on, and whether a prompt leaves it open."""

from __future__ import annotations

from collections.abc import Mapping

from llamafast.chat.reasoning_tags import ReasoningTags

# Variables by which templates switch reasoning on and off.
REASONING_SWITCHES = ("enable_thinking", "thinking")


def invalid_reasoning_switch(variables: Mapping[str, object]) -> str | None:
    """A switch that is neither true, false nor null: to a template every text is true, "no" and "false" as well."""
    return next((name for name in REASONING_SWITCHES if not isinstance(variables.get(name), bool | None)), None)


def leaves_reasoning_open(prompt: str, tags: ReasoningTags | None, continued: str | None = None) -> bool:
    """Whether the model goes on inside a reasoning block. `continued`: the unfinished message that the prompt ends in.

    Only the prompt's end counts, not a tag that somebody quotes before it.
    """
    if tags is None:
        return False
    if prompt.rstrip().endswith(tags.open):
        return True
    return continued is not None and continued.rfind(tags.open) > continued.rfind(tags.close)
