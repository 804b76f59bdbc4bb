"""Reasoning that a prompt leaves open."""

from __future__ import annotations

from llamafast.parsing.call_syntax import ReasoningTags


def leaves_reasoning_open(prompt: str, tags: ReasoningTags | None, continued: str | None = None) -> bool:
    """Whether the model goes on inside a reasoning block. `continued`: the unfinished message that the prompt ends in.

    Only the prompt's end counts, not a tag that somebody quotes before it.
    """
    if tags is None:
        return False
    if prompt.rstrip().endswith(tags.open):
        return True
    return continued is not None and continued.rfind(tags.open) > continued.rfind(tags.close)
