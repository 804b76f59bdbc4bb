"""The template variables that switch reasoning on and off, and whether a prompt leaves a reasoning block open."""

from __future__ import annotations

from collections.abc import Mapping

from llamafast.chat.reasoning_tags import ReasoningTags

# The names of those variables.
REASONING_SWITCHES = ("enable_thinking", "thinking")


def invalid_reasoning_switch(variables: Mapping[str, object]) -> str | None:
    """The name of a switch that is not true, false or null. Templates treat any text as true, even "no" and "false"."""
    return next((name for name in REASONING_SWITCHES if not isinstance(variables.get(name), bool | None)), None)


def leaves_reasoning_open(prompt: str, tags: ReasoningTags | None, continued: str | None = None) -> bool:
    """Whether the model continues inside a reasoning block.

    prompt: the text of the prompt. Only its end counts; a tag that is quoted earlier does not.
    continued: the text of the unfinished message at the end of the prompt.
    """
    if tags is None:
        return False
    if prompt.rstrip().endswith(tags.open):
        return True
    return continued is not None and continued.rfind(tags.open) > continued.rfind(tags.close)
