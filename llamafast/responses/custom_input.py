"""The text that a model writes for a custom tool, out of the JSON arguments of a call, as they come."""

from __future__ import annotations

import re

import orjson

from llamafast.responses.tools import CUSTOM_PARAMETER

_OPENING = re.compile(r'\s*\{\s*"' + CUSTOM_PARAMETER + r'"\s*:\s*"')

_HIGH_SURROGATE = re.compile(r"[dD][89abAB][0-9a-fA-F]{2}")


class CustomInput:
    """Decodes `{"input": "..."}` piece by piece. Arguments of another shape are given out as they are, at the end."""

    def __init__(self) -> None:
        self._text = ""  # not given out yet: before the opening quote all of it, then what may be half an escape
        self._all: list[str] = []
        self._is_open = False
        self._is_closed = False
        self.num_chars = 0  # given out

    def feed(self, fragment: str) -> str:
        """What a piece of the arguments adds to the input."""
        self._all.append(fragment)
        if self._is_closed:
            return ""
        self._text += fragment
        if not self._is_open:
            opening = _OPENING.match(self._text)
            if opening is None:
                return ""
            self._is_open = True
            self._text = self._text[opening.end() :]
        return self._given(self._decoded())

    def finish(self) -> str:
        """The rest of the input, when the call has ended or was cut."""
        if self._is_open:
            return ""
        arguments = "".join(self._all)
        try:
            document = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return self._given(arguments)
        value = document.get(CUSTOM_PARAMETER) if isinstance(document, dict) else None
        return self._given(value if isinstance(value, str) else arguments)

    def _decoded(self) -> str:
        """Up to the closing quote, or to the last whole character. The rest stays."""
        text, end = self._text, 0
        while (i := _next(text, end)) >= 0:
            if text[i] == '"':
                self._is_closed, self._text = True, ""
                return _unescaped(text[:i])
            length = _escape_length(text, i)
            if i + length > len(text):
                self._text = text[i:]
                return _unescaped(text[:i])
            end = i + length
        self._text = ""
        return _unescaped(text)

    def _given(self, text: str) -> str:
        self.num_chars += len(text)
        return text


def _next(text: str, start: int) -> int:
    """The next quote or backslash, -1: there is none."""
    places = [place for mark in '"\\' if (place := text.find(mark, start)) >= 0]
    return min(places, default=-1)


def _escape_length(text: str, start: int) -> int:
    """The characters of the escape that begins at `start`, more than are left if it may go on."""
    if text[start + 1 : start + 2] != "u":
        return 2
    return 12 if _HIGH_SURROGATE.match(text, start + 2) and text[start + 6 : start + 8] in ("\\u", "\\", "") else 6


def _unescaped(text: str) -> str:
    if "\\" not in text and text.isprintable():
        return text
    try:
        decoded: str = orjson.loads(b'"' + text.encode() + b'"')
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return text
    return decoded
