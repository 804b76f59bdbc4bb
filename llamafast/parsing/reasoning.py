"""Reasoning that a prompt leaves open."""

from __future__ import annotations

OPEN = "<think>"
CLOSE = "</think>"


def leaves_reasoning_open(prompt: str, continued: str | None = None) -> bool:
    """Whether the model goes on inside a reasoning block. `continued`: the unfinished message that the prompt ends in.

    Only the prompt's end counts, not a tag that somebody quotes before it.
    """
    if prompt.rstrip().endswith(OPEN):
        return True
    return continued is not None and continued.rfind(OPEN) > continued.rfind(CLOSE)
