"""JsonScanner: follows one JSON value through a text that arrives in pieces."""

from __future__ import annotations

import re
from json.encoder import encode_basestring

# json.loads does not accept longer numbers and deeper values everywhere.
_MAX_ATOM = 1000
_MAX_DEPTH = 200

_space = re.compile(r"[ \t\n\r]*").match
_plain = re.compile(r'[^"\\\x00-\x1f]*').match
_word = re.compile(r"[-+.0-9A-Za-z]*").match
_hex = re.compile(r"[0-9a-fA-F]*").match
# After a backslash these have a meaning in other languages. Other characters mean themselves there.
_UNCLEAR = frozenset("xuUNave0123456789")
_atom = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null").fullmatch


class JsonScanner:
    """Finds the end of a JSON value, or the place of a mistake. It takes O(1) time per character and stores only a
    number that has begun.

    is_lenient: accept raw control characters in strings, and backslashes that escape nothing. scan() then stops before
        such a character, and `instead` is its JSON form. The caller passes `instead` on, sets it to "" and continues
        after the character.
    is_clear: only the last brace can be missing, because no object inside an object has two members.

    Source: RFC 8259.
    """

    __slots__ = (
        "_begun",
        "_counts",
        "_is_key",
        "_is_lenient",
        "_num_hex",
        "_open",
        "_step",
        "instead",
        "is_clear",
        "is_done",
        "is_wrong",
    )

    def __init__(self, *, is_lenient: bool = False) -> None:
        self.is_done = False
        self.is_wrong = False
        self.is_clear = True
        self.instead = ""
        self._is_lenient = is_lenient
        self._counts: list[int] = []  # the number of members of each open object or array
        self._step = self._value
        self._open: list[str] = []  # the closing bracket of each open object or array
        self._begun = ""
        self._num_hex = 0
        self._is_key = False

    def scan(self, text: str, at: int) -> int:
        """Continue at text[at]. Returns the offset after the last character of the value."""
        end = len(text)
        while at < end and not self.is_done and not self.is_wrong and not self.instead:
            at = self._step(text, at)
        return at

    @property
    def lacks_a_brace(self) -> bool:
        """Whether one brace would end the value here, and only one place for it is possible."""
        return self._open == ["}"] and self._step == self._next and self.is_clear

    def _value(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at == len(text):
            return at
        char = text[at]
        if char == '"':
            self._step, self._is_key = self._string, False
        elif char in "{[" and len(self._open) < _MAX_DEPTH:
            self._open.append("}" if char == "{" else "]")
            self._counts.append(0)
            self._step = self._first
        elif char in "-0123456789tfn":
            self._step, self._begun = self._number_or_word, ""
            return at
        else:
            return self._fail(at)
        return at + 1

    def _first(self, text: str, at: int) -> int:
        """After an opening bracket."""
        at = _skip_space(text, at)
        if at == len(text):
            return at
        if text[at] == self._open[-1]:
            return self._close(at)
        self._step = self._key if self._open[-1] == "}" else self._value
        return at

    def _key(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            return self._fail(at)
        self._step, self._is_key = self._string, True
        self._counts[-1] += 1
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        at = _skip_space(text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            return self._fail(at)
        self._step = self._value
        return at + 1

    def _next(self, text: str, at: int) -> int:
        """After a member."""
        at = _skip_space(text, at)
        if at == len(text):
            return at
        if text[at] == self._open[-1]:
            return self._close(at)
        if text[at] != ",":
            return self._fail(at)
        self._step = self._key if self._open[-1] == "}" else self._value
        return at + 1

    def _string(self, text: str, at: int) -> int:
        at = _end(_plain(text, at))
        if at == len(text):
            return at
        if text[at] == "\\":
            self._step = self._escape
        elif text[at] != '"':
            return self._replace(at, encode_basestring(text[at])[1:-1])
        elif self._is_key:
            self._step = self._colon
        else:
            self._end_value()
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        if text[at] == "u":
            self._step, self._num_hex = self._code, 4
        elif text[at] in '"\\/bfnrt':
            self._step = self._string
        elif text[at] in _UNCLEAR or text[at] < " ":
            return self._fail(at)
        else:
            self._step = self._string
            return self._replace(at, "u0027" if text[at] == "'" else "\\" + text[at])
        return at + 1

    def _code(self, text: str, at: int) -> int:
        end = min(_end(_hex(text, at)), at + self._num_hex)
        self._num_hex -= end - at
        if not self._num_hex:
            self._step = self._string
        elif end < len(text):
            return self._fail(end)
        return end

    def _number_or_word(self, text: str, at: int) -> int:
        end = min(_end(_word(text, at)), at + _MAX_ATOM - len(self._begun))
        self._begun += text[at:end]
        if len(self._begun) == _MAX_ATOM:
            return self._fail(end)
        if end < len(text):
            if not _atom(self._begun):
                return self._fail(end)
            self._end_value()
        return end

    def _close(self, at: int) -> int:
        is_object, num_members = self._open.pop() == "}", self._counts.pop()
        if is_object and num_members > 1 and self._open[-1:] == ["}"]:
            self.is_clear = False
        self._end_value()
        return at + 1

    def _end_value(self) -> None:
        if self._open:
            self._step = self._next
        else:
            self.is_done = True

    def _replace(self, at: int, instead: str) -> int:
        """The character at this offset is not JSON."""
        if not self._is_lenient:
            return self._fail(at)
        self.instead = instead
        return at

    def _fail(self, at: int) -> int:
        self.is_wrong = True
        return at


def _skip_space(text: str, at: int) -> int:
    return _end(_space(text, at))


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # the patterns match the empty text
    return match.end()
