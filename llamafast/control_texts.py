"""Texts of control tokens inside other people's text: found, marked before rendering, and kept from being parsed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping

Range = tuple[int, int]


class ControlTexts:
    """The texts that a tokenizer turns into control tokens, as a set that can be searched for.

    What a client sends goes through mark() before a template sees it. In the rendered text the marks show where each
    such text came from the client: unmark() takes them out and says which ranges must not be parsed.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(texts) - {""}
        self._lengths: dict[str, list[int]] = {}
        for text in self.texts:
            self._lengths.setdefault(text[:2], []).append(len(text))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        heads = "|".join(map(re.escape, sorted(self._lengths, key=len, reverse=True)))
        # A lookahead, so that texts that overlap are all found. Without texts: a pattern that matches nowhere.
        self._heads = re.compile(f"(?={heads})" if heads else r"(?!)")

    def are_in(self, *values: object) -> bool:
        """Whether any string in values, keys of objects included, holds a control token's text."""
        left: list[object] = list(values)
        while left:
            value = left.pop()
            if isinstance(value, str):
                if next(self._ranges(value), None) is not None:
                    return True
            elif isinstance(value, Mapping):
                left += value
                left += value.values()
            elif isinstance(value, (list, tuple)):
                left += value
        return False

    def mark(self, value: object, mark: str, trusted: frozenset[str] = frozenset()) -> object:
        """A copy of value with mark inside each control text, behind its first character; but not in those trusted.

        Raises RecursionError for a value nested too deeply.
        """
        if isinstance(value, str):
            places = [start + 1 for start, end in self._ranges(value) if value[start:end] not in trusted]
            pieces = [value[i:j] for i, j in zip([0, *places], [*places, len(value)], strict=True)]
            return mark.join(pieces)
        if isinstance(value, Mapping):
            return {self.mark(name, mark): self.mark(inner, mark, trusted) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(inner, mark, trusted) for inner in value]
        return value

    def unmark(self, text: str, mark: str) -> tuple[str, list[Range]]:
        """The text without marks, and the ranges of control texts in it that have one inside, ascending, disjoint."""
        pieces = text.split(mark)
        clean = "".join(pieces)
        places: set[int] = set()
        end = 0
        for piece in pieces[:-1]:
            end += len(piece)
            places.add(end)
        plain: list[Range] = []
        for start, end in self._ranges(clean) if places else ():
            if not any(place in places for place in range(start + 1, max(end, start + 2))):
                continue
            if plain and start < plain[-1][1]:
                plain[-1] = (plain[-1][0], max(plain[-1][1], end))
            else:
                plain.append((start, end))
        return clean, plain

    def _ranges(self, text: str) -> Iterator[Range]:
        """Where control texts stand, the longest at each place, ascending; they may overlap."""
        for found in self._heads.finditer(text):
            start = found.start()
            for head in (text[start : start + 2], text[start]):
                length = next((n for n in self._lengths.get(head, ()) if text[start : start + n] in self.texts), 0)
                if length:
                    yield start, start + length
                    break


def new_mark() -> str:
    """A text that nobody's text holds. Digits: no filter of a template changes them."""
    return str(secrets.randbelow(10**24) + 10**24)


def segments(text: str, plain: Iterable[Range]) -> list[tuple[str, bool]]:
    """The text as pieces for Tokenizer.encode_segments, with only the ranges in plain not parsed."""
    pieces: list[tuple[str, bool]] = []
    place = 0
    for start, end in plain:
        pieces += [(text[place:start], True), (text[start:end], False)]
        place = end
    return [piece for piece in [*pieces, (text[place:], True)] if piece[0]]
