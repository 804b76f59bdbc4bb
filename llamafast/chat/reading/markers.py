"""Markers: finds the texts that structure a model's output, in text that arrives in pieces."""

from __future__ import annotations

import re


class Markers:
    """A set of markers. None of them is the beginning of another."""

    __slots__ = ("_beginnings", "_first", "_search", "longest", "texts")

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.longest = max(map(len, texts), default=0)
        self._beginnings = frozenset(text[:n] for text in texts for n in range(1, len(text)))
        # An empty character class is not a valid regex. (?!) matches nowhere.
        beginnings = "".join(sorted({re.escape(text[0]) for text in texts}))
        self._first = re.compile(f"[{beginnings}]" if beginnings else "(?!)").search
        self._search = re.compile("|".join(map(re.escape, texts)) if texts else "(?!)").search

    def find(self, text: str, at: int, end: int | None = None) -> tuple[int, str | None]:
        """(the offset of the first marker at or after `at`, that marker), in text up to `end`.

        Without one: (the offset where the text may begin a marker, otherwise its end; None).
        """
        end = len(text) if end is None else min(end, len(text))
        first = self._first(text, at, end)
        if first is None:
            return end, None
        start = first.start()
        found = self._search(text, start, end)
        if found is not None:
            return found.start(), found[0]
        start = max(start, end - self.longest + 1)
        while (first := self._first(text, start, end)) is not None:
            start = first.start()
            if text[start:end] in self._beginnings:
                return start, None
            start += 1
        return end, None
