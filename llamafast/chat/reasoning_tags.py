"""ReasoningTags: the two texts between which a model writes its reasoning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags of a reasoning block, without the white space around them.

    open: the text that begins the reasoning, such as "<think>".
    close: the text that ends it, such as "</think>".
    """

    open: str
    close: str


THINK = ReasoningTags("<think>", "</think>")
