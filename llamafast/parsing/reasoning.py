"""Reasoning in a model's text: whether a prompt leaves it open, and the text behind such a prompt in its two parts."""

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


class ReasoningSplitter:
    """Parts a text that begins inside a reasoning block. However it is cut into pieces, the parts are the same.

    White space around the reasoning is dropped; the content is everything behind the closing tag, as it stands.
    content_start: where the content begins in the text; None before the tag is complete.
    """

    __slots__ = ("_has_begun", "_held", "_num_passed", "content_start")

    def __init__(self) -> None:
        self.content_start: int | None = None
        self._has_begun = False
        self._held = ""  # may be white space before the tag, or a part of the tag
        self._num_passed = 0

    def add(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that are certain now."""
        if self.content_start is not None:
            return "", text
        text = self._held + text
        end = text.find(CLOSE)
        if end >= 0:
            self._held = ""
            self.content_start = self._num_passed + end + len(CLOSE)
            return self._trimmed(text[:end].rstrip()), text[end + len(CLOSE) :]
        certain = text[: len(text) - _num_begun(text)].rstrip()
        self._held = text[len(certain) :]
        self._num_passed += len(certain)
        return self._trimmed(certain), ""

    def flush(self) -> str:
        """The reasoning held back, where the text ends before the tag."""
        held, self._held = self._held, ""
        self._num_passed += len(held)
        return self._trimmed(held.rstrip())

    def _trimmed(self, reasoning: str) -> str:
        if not self._has_begun:
            reasoning = reasoning.lstrip()
            self._has_begun = bool(reasoning)
        return reasoning


def _num_begun(text: str) -> int:
    """Characters at the end of text that may be the beginning of the closing tag."""
    return next((n for n in range(min(len(CLOSE) - 1, len(text)), 0, -1) if CLOSE.startswith(text[-n:])), 0)
