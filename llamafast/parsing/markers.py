"""Markers: the texts between which a model's output changes its meaning, found as they come."""

from __future__ import annotations

import re


class Markers:
    """A set of markers, none of them the beginning of another."""

    __slots__ = ("_first", "_longest", "_search", "texts")

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self._longest = max(map(len, texts), default=0)
        # An empty class of characters is no regex: (?!) matches nowhere.
        firsts = "".join(sorted({re.escape(text[0]) for text in texts}))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)").search
        self._search = re.compile("|".join(map(re.escape, texts)) if texts else "(?!)").search

    def find(self, text: str, at: int) -> tuple[int, str | None]:
        """(where the first marker behind `at` begins, that marker).

        Without one: (where the end of the text may begin one, else the text's length; None).
        """
        first = self._first(text, at)
        if first is None:
            return len(text), None
        start = first.start()
        found = self._search(text, start)
        if found is not None:
            return found.start(), found[0]
        start = max(start, len(text) - self._longest + 1)
        while (first := self._first(text, start)) is not None:
            start = first.start()
            end = text[start:]
            if any(marker.startswith(end) for marker in self.texts):
                return start, None
            start += 1
        return len(text), None
