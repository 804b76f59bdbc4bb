"""TextReader: takes a text apart that comes in pieces, with generators that wait for more of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeAlias, TypeVar

from llamafast.chat.reading.json_scanner import JsonScanner
from llamafast.chat.reading.markers import Markers

_T = TypeVar("_T")
# Yields wherever it needs more text than there is.
Wait: TypeAlias = Generator[None, None, _T]

_space = re.compile(r"\s*").match
_MAX_NAME = 256


class MalformedError(Exception):
    """What stands here is not of the format."""


class TextEnd(Exception):
    """There will be no more text. Thrown into a generator where it waits."""


class TextReader:
    """A text that is taken from its beginning. What is not taken yet begins at text[at]."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self._num_cut = 0  # characters before text
        self._kept: list[str] | None = None  # what was taken since settle(), before text[_mark]
        self._mark = 0
        self.scanner = JsonScanner()  # of the JSON that is being read, or was read last

    def add(self, text: str) -> None:
        """More of it has come."""
        if self._kept is not None:
            self._kept.append(self.text[self._mark : self.at])
            self._mark = 0
        self._num_cut += self.at
        self.text = self.text[self.at :] + text
        self.at = 0

    def accept(self, text: str) -> Wait[bool]:
        """Take text if it stands here."""
        while not self.text.startswith(text, self.at):
            if len(self.text) - self.at >= len(text) or not text.startswith(self.text[self.at :]):
                return False
            yield
        self.at += len(text)
        return True

    def expect(self, text: str) -> Wait[None]:
        """Take text, which must stand here."""
        if not (yield from self.accept(text)):
            raise MalformedError

    def accept_end(self, text: str) -> Wait[bool]:
        """Take what closes a call that is over, behind white space. The whole text may end within it."""
        try:
            yield from self.space()
            return (yield from self.accept(text))
        except TextEnd:
            self.at = len(self.text)
            self.commit()
            raise

    def space(self) -> Wait[None]:
        """Take white space."""
        while True:
            self.at = self.space_end()
            if self.at < len(self.text):
                return
            yield

    def space_end(self) -> int:
        """Where white space that stands here ends, so far."""
        return _end(_space(self.text, self.at))

    def peek(self) -> Wait[str]:
        """The next character, which is not taken."""
        while self.at == len(self.text):
            yield
        return self.text[self.at]

    def word(self, pattern: re.Pattern[str]) -> Wait[str]:
        """Take all that pattern matches, a repeated class of characters. MalformedError if it is empty or long."""
        taken = ""
        while True:
            end = min(_end(pattern.match(self.text, self.at)), self.at + _MAX_NAME - len(taken))
            taken += self.text[self.at : end]
            self.at = end
            if len(taken) == _MAX_NAME:
                raise MalformedError
            if end < len(self.text):
                break
            yield
        if not taken:
            raise MalformedError
        return taken

    def copy(self, ends: Markers, sink: Callable[[str], object], most: int | None = None) -> Wait[str]:
        """Pass on the text up to one of ends; takes that too, and returns it. most: its longest length, in characters.

        Raises MalformedError if the text is longer.
        """
        while True:
            end, marker = ends.find(self.text, self.at, None if most is None else self.at + most + ends.longest)
            if most is not None:
                most -= end - self.at
                if most < 0:
                    raise MalformedError
            if end > self.at:
                sink(self.text[self.at : end])
                self.at = end
            if marker is not None:
                self.at += len(marker)
                return marker
            try:
                yield
            except TextEnd:
                if self.at < len(self.text):
                    sink(self.text[self.at :])
                    self.at = len(self.text)
                raise

    def peek_any(self, texts: Iterable[str]) -> Wait[str]:
        """Which of texts stands here; "" if none does. It is not taken."""
        while True:
            left = len(self.text) - self.at
            is_open = False
            for text in texts:
                if self.text.startswith(text, self.at):
                    return text
                is_open = is_open or (left < len(text) and text.startswith(self.text[self.at :]))
            if not is_open:
                return ""
            yield

    def json(self, sink: Callable[[str], object], *, is_lenient: bool = True) -> Wait[None]:
        """Pass on one JSON value as it comes. is_lenient: what models get wrong within strings is put right."""
        scanner = self.scanner = JsonScanner(is_lenient=is_lenient)
        while True:
            end = scanner.scan(self.text, self.at)
            if end > self.at:
                sink(self.text[self.at : end])
                self.at = end
            if scanner.instead:
                sink(scanner.instead)
                scanner.instead = ""
                self.at += 1
                continue
            if scanner.is_wrong:
                raise MalformedError
            if scanner.is_done:
                return
            yield

    def commit(self) -> None:
        """What was taken up to here stays taken, even if what follows turns out to be no call."""
        self._kept = []
        self._mark = self.at

    def roll_back(self) -> None:
        """To where settle was called last."""
        if self._kept:
            taken = "".join(self._kept) + self.text[self._mark : self.at]
            self._num_cut += self.at - len(taken)
            self.text = taken + self.text[self.at :]
            self.at = 0
        else:
            self.at = self._mark
        self._kept = None


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # the patterns match the empty text
    return match.end()
