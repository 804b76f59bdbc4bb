"""Finds texts of control tokens that a client wrote, so that the tokenizer does not turn them into control tokens."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise

from llamafast.chat.prompt.turns import TrustedText

Range = tuple[int, int]

_PIECE_CHARS = 2**18


def likely_control_texts(texts: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The texts of tokens that control the model: they contain "<|" or "|>", or are a tag that occurs in a known text.

    texts: texts of tokens.
    known: the literals of a template and the markers of its format. Blanks, words and HTML tags are plain text.
    """
    written = "\n".join(known)
    return frozenset(text for text in texts if _BARRED.search(text) or (_TAG.fullmatch(text) and text in written))


_BARRED = re.compile(r"\A<[|\uff5c].|.[|\uff5c]>\Z", re.DOTALL)
_TAG = re.compile(r"[<\[\]][^\s].*[>\]\[]", re.DOTALL)


class ControlTexts:
    """The texts that a tokenizer turns into control tokens.

    texts: those texts.
    literals: the texts that the template writes between messages.
    defined: texts that the tokenizer turns into tokens even where it must not parse control tokens.

    mark() puts a mark into the text of clients before the template renders it. The mark follows the first character of
    each text that is a control text, or that may become one when the template joins texts. segments() finds the marked
    control texts in the rendered text, and so tells them from the control texts of the template.
    """

    def __init__(self, texts: Iterable[str], literals: Iterable[str] = (), defined: Iterable[str] = ()) -> None:
        self._defined: dict[str, tuple[str, ...]] = {}
        for text in defined:
            self._defined[text[:2]] = (*self._defined.get(text[:2], ()), text)
        self.texts = frozenset(chain(texts, *self._defined.values())) - {""}
        # Templates look for reasoning tags in answers. Clients may write them in any case.
        self._reasoning_tags = frozenset(text for text in self.texts if "think" in text.lower())
        self._prefixes = frozenset(text[:n] for text in self.texts for n in range(1, len(text)))
        self._lengths: dict[str, list[int]] = {}
        for text in self.texts:
            self._lengths.setdefault(text[:2], []).append(len(text))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        heads = [re.escape(head) for head in sorted(self._lengths, key=len, reverse=True)]
        self._first_chars = frozenset(text[0] for text in self.texts)
        self._longest = max(map(len, self.texts), default=0)
        # The lookahead finds overlapping matches. Without texts the pattern matches nowhere.
        self._heads = re.compile(f"(?={'|'.join(heads)})" if heads else r"(?!)")

        # If the template writes "<" before a name, a name that is the rest of a control text completes it.
        openings = {literal[i:] for literal in literals for i in range(len(literal))} & self._prefixes
        self._rests: dict[str, list[str]] = {}
        for rest in {text[len(start) :] for start in openings for text in self.texts if text.startswith(start)}:
            self._rests.setdefault(rest[0], []).append(rest)

    def may_be_in(self, *values: object) -> bool:
        """Whether mark() would change any string in values, including the names in objects."""
        return any(next(self._begun(text), None) is not None or self._completes(text) for text in strings_in(*values))

    def mark(self, value: object, mark: str, *, is_answer: bool = False) -> object:
        """A copy of value with marks in its strings, including the names in objects. A TrustedText stays as it is.

        is_answer: the text is an answer of the model in an earlier turn. Templates look into answers, so only whole
            control texts, and texts that may become one, are marked there. Reasoning tags are not marked.
        Raises RecursionError if value is nested too deeply.
        """
        if isinstance(value, TrustedText):
            return value
        if isinstance(value, str):
            starts = list(self._begun(value))
            if is_answer:
                starts = [start for start in starts if self._is_dangerous(value, start)]
            places = [start + 1 for start in starts]
            if self._completes(value):
                places.insert(0, 0)
            return mark.join(value[i:j] for i, j in zip([0, *places], [*places, len(value)], strict=True))
        if isinstance(value, Mapping):
            return {self.mark(name, mark): self.mark(inner, mark, is_answer=is_answer) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(inner, mark, is_answer=is_answer) for inner in value]
        return value

    def segments(self, marked: str, mark: str) -> list[tuple[str, bool]]:
        """A marked text without its marks, as segments for Tokenizer.encode_segments.

        A segment between two control texts of the template is not parsed if it contains a control text of a client.
        Otherwise its tokens are those of the whole text. Defined texts in such a segment are cut after their first
        character.
        """
        pieces = marked.split(mark)
        text = "".join(pieces)
        marks: set[int] = set()
        place = 0
        for piece in pieces[:-1]:
            place += len(piece)
            marks.add(place)
        segments: list[tuple[str, bool]] = []
        emitted = piece_start = foreign_end = 0
        for start, end in [*self._ranges(text), (len(text), len(text))]:
            if any(place in marks for place in range(start + 1, max(end, start + 2))):
                foreign_end = max(foreign_end, end)
            elif start >= max(piece_start, foreign_end):
                if foreign_end > piece_start:
                    segments.append((text[emitted:piece_start], True))
                    segments += ((part, False) for part in self._cut(text[piece_start:start]))
                    emitted = start
                piece_start = end
        segments.append((text[emitted:], True))
        return [segment for segment in segments if segment[0]]

    def _cut(self, text: str) -> Iterator[str]:
        """The parts of the text. None of them contains a defined text."""
        heads = self._head_starts(text) if self._defined else ()
        places = [at + 1 for at in heads if text.startswith(self._defined.get(text[at : at + 2], ()), at)]
        return (text[i:j] for i, j in pairwise([0, *places, len(text)]))

    def _completes(self, text: str) -> bool:
        rests = self._rests.get(text[:1], ())
        return any(text.startswith(rest) or rest.startswith(text) for rest in rests)

    def _is_dangerous(self, text: str, start: int) -> bool:
        if len(text) - start < self._longest and text[start:] in self._prefixes:
            return True
        length = self._length_at(text, start)
        return bool(length) and text[start : start + length] not in self._reasoning_tags

    def _ranges(self, text: str) -> Iterator[Range]:
        """The ranges of control texts, the longest at each offset, ascending. They may overlap."""
        for start in self._head_starts(text):
            if length := self._length_at(text, start):
                yield start, start + length

    def _begun(self, text: str) -> Iterator[int]:
        """The offsets where a control text begins or may begin without ending in the text, ascending."""
        last = -1
        for last in self._head_starts(text):
            yield last
        if text and last < len(text) - 1 and text[-1] in self._first_chars:
            yield len(text) - 1

    def _head_starts(self, text: str) -> Iterator[int]:
        # The text is searched in pieces, because a search holds the GIL. A head has at most two characters.
        for begin in range(0, len(text), _PIECE_CHARS):
            end = begin + _PIECE_CHARS
            yield from (found.start() for found in self._heads.finditer(text, begin, end + 1) if found.start() < end)

    def _length_at(self, text: str, start: int) -> int:
        """The length of the longest control text that begins at start. 0: there is none."""
        lengths = [n for head in (text[start : start + 2], text[start]) for n in self._lengths.get(head, ())]
        return next((n for n in lengths if start + n <= len(text) and text[start : start + n] in self.texts), 0)


def strings_in(*values: object) -> Iterator[str]:
    """All strings in JSON values of clients, including the names in objects, in no order."""
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, str) and not isinstance(value, TrustedText):
            yield value
        elif isinstance(value, Mapping):
            left += value
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value


def new_mark() -> str:
    """A random text that occurs in no other text. It is made of digits, which no template filter changes."""
    return str(secrets.randbelow(10**24) + 10**24)
