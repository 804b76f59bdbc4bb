"""TextReader: consumes a text that arrives in pieces, with generators that wait for more of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeAlias, TypeVar

from llamafast.chat.reading.json_scanner import JsonScanner
from llamafast.chat.reading.markers import Markers

_T = TypeVar("_T")
# A generator that yields whenever it needs more text, and returns a value.
Wait: TypeAlias = Generator[None, None, _T]

_space = re.compile(r"\s*").match
_MAX_NAME = 256


class MalformedError(Exception):
    """The text here is not in the format."""


class TextEnd(Exception):
    """The text has ended. It is thrown into a generator that waits."""


class TextReader:
    """Consumes a text from its beginning. The unread text begins at text[at]."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self._num_cut = 0  # number of characters before text
        self._kept: list[str] | None = None  # what was consumed since commit(), before text[_mark]
        self._mark = 0
        self.scanner = JsonScanner()  # of the JSON that is being read, or was read last

    def add(self, text: str) -> None:
        """Add the next piece of the text."""
        if self._kept is not None:
            self._kept.append(self.text[self._mark : self.at])
            self._mark = 0
        self._num_cut += self.at
        self.text = self.text[self.at :] + text
        self.at = 0

    def accept(self, text: str) -> Wait[bool]:
        """Consume text if it is next. Returns whether it was."""
        while not self.text.startswith(text, self.at):
            if len(self.text) - self.at >= len(text) or not text.startswith(self.text[self.at :]):
                return False
            yield
        self.at += len(text)
        return True

    def expect(self, text: str) -> Wait[None]:
        """Consume text. Raises MalformedError if it is not next."""
        if not (yield from self.accept(text)):
            raise MalformedError

    def accept_end(self, text: str) -> Wait[bool]:
        """Consume text that closes a finished call, after white space. The whole text may end within it."""
        try:
            yield from self.space()
            return (yield from self.accept(text))
        except TextEnd:
            self.at = len(self.text)
            self.commit()
            raise

    def space(self) -> Wait[None]:
        """Consume white space."""
        while True:
            self.at = self.space_end()
            if self.at < len(self.text):
                return
            yield

    def space_end(self) -> int:
        """The offset where the white space that is next ends, so far."""
        return _end(_space(self.text, self.at))

    def peek(self) -> Wait[str]:
        """The next character. It is not consumed."""
        while self.at == len(self.text):
            yield
        return self.text[self.at]

    def word(self, pattern: re.Pattern[str]) -> Wait[str]:
        """Consume everything that pattern matches, a repeated character class. Raises MalformedError if it is empty or
        too long.
        """
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
        """Pass the text up to one of ends on to sink. Consumes that end and returns it.

        most: the maximum length of the text, in characters. Raises MalformedError if it is longer.
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
        """The one of texts that is next; "" if none is. It is not consumed."""
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
        """Pass one JSON value on to sink, piece by piece. is_lenient: common mistakes of models in strings are
        repaired.
        """
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
        """Text consumed so far stays consumed, even if the following text proves not to be a call."""
        self._kept = []
        self._mark = self.at

    def roll_back(self) -> None:
        """Return to the place where commit() was called last."""
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
