"""LiteralReader: turns values in a notation other than JSON (Python's, Gemma's) into JSON, piece by piece."""

from __future__ import annotations

import re
from dataclasses import dataclass
from json.encoder import encode_basestring

_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z")
_WORD = re.compile(r"[^\s,:=(){}\[\]'\"<]+")
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|[^xuU0-7])", re.DOTALL)
_LONGEST_ESCAPE = 10
_LONGEST_WORD = 1000
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": "", "/": "/"}
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSERS = {"{": "}", "[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written.

    quotes: texts that open and close a string.
    escaped: the quotes whose strings have backslash escapes.
    has_bare_strings: a word that is neither a constant nor a number is a string. Otherwise it is a mistake.
    """

    quotes: tuple[str, ...]
    escaped: tuple[str, ...]
    has_bare_strings: bool = False


PYTHON = Notation(("'", '"'), ("'", '"'))
GEMMA = Notation(('<|"|>', '"'), ('"',), has_bare_strings=True)


class LiteralReader:
    """Reads one object, piece by piece, and returns JSON text. The result does not depend on how the text is cut.

    root "{": the object is in braces. Doubled braces and brackets are accepted too.
    root "(": the text follows the opening parenthesis of a call, as in `a=1, b='x')`.
    is_complete: the object has ended.
    is_broken: the text is not in the notation.
    """

    __slots__ = ("_expects", "_is_doubled", "_is_headless", "_notation", "_quote", "_stack", "is_broken", "is_complete")

    def __init__(self, notation: Notation, root: str = "{") -> None:
        self.is_complete = False
        self.is_broken = False
        self._notation = notation
        self._is_headless = root == "("  # the opening brace of the object has to be written
        # The closing bracket of each open object or array. Objects have a "=" before it.
        self._stack = ["=)"] if self._is_headless else []
        self._expects = "first" if self._is_headless else "root"
        self._quote = ""
        self._is_doubled = False

    def read(self, text: str, at: int) -> tuple[str, int]:
        """Read text[at:]. Returns (JSON text, the offset up to which text is read).

        Unread text may continue, unless the object is complete or broken. The next text must begin with it.
        """
        out = ["{"] if self._is_headless else []
        self._is_headless = False
        while at < len(text) and not self.is_complete and not self.is_broken:
            step = self._read_string(text, at, out) if self._quote else self._read(text, at, out)
            if step < 0:
                break
            at = step
        return "".join(out), at

    def _read(self, text: str, at: int, out: list[str]) -> int:
        """The offset after the next piece. -1: the piece may continue."""
        space = _SPACE.match(text, at)
        if space is not None:
            return space.end()
        char = text[at]
        if self._expects == "separator":
            return self._broken(at) if char not in ":=" else self._passed(at, out, ":", "value")
        if self._expects == "comma" or (self._expects in ("first", "next") and char in ")}]"):
            return self._read_end(char, at, out)
        if self._expects == "root":
            return self._open(char, at, out) if char in "{[" else self._broken(at)
        if self._expects == "first" and char == "{" and self._stack == ["=}"] and not self._is_doubled:
            self._is_doubled = True
            return at + 1
        return self._read_item(text, char, at, out)

    def _read_item(self, text: str, char: str, at: int, out: list[str]) -> int:
        quote = self._quote_at(text, at)
        if quote is None:
            return -1
        is_key = self._expects != "value" and self._stack[-1][0] == "="
        word = None if quote else _WORD.match(text, at)
        if not quote and word is None and (is_key or char not in _CLOSERS):
            return self._broken(at)
        if word is not None and word.end() == len(text) and len(word[0]) < _LONGEST_WORD:
            return -1
        if word is not None and len(word[0]) >= _LONGEST_WORD:
            return self._broken(at)
        if word is not None and not is_key and _json_word(word[0], self._notation) is None:
            return self._broken(at)
        if self._expects == "next":
            out.append(",")
        if quote:
            out.append('"')
            self._quote = quote
            self._expects = "separator" if is_key else "comma"
            return at + len(quote)
        if word is None:
            return self._open(char, at, out)
        if is_key:
            return self._passed(word.end() - 1, out, encode_basestring(word[0]), "separator")
        return self._passed(word.end() - 1, out, _json_word(word[0], self._notation) or "", "comma")

    def _quote_at(self, text: str, at: int) -> str | None:
        """The quote that begins here; "" if none does; None if one may begin here."""
        for quote in self._notation.quotes:
            if text.startswith(quote, at):
                return quote
            if quote.startswith(text[at:]):
                return None
        return ""

    def _open(self, char: str, at: int, out: list[str]) -> int:
        is_object = char == "{" or not self._stack
        self._stack.append("=" * is_object + _CLOSERS[char])
        return self._passed(at, out, "{" if is_object else "[", "first")

    def _read_end(self, char: str, at: int, out: list[str]) -> int:
        if char == ",":
            self._expects = "next"
            return at + 1
        top = self._stack[-1]
        if char != top[-1]:
            return self._broken(at)
        if len(self._stack) == 1 and self._is_doubled:
            self._is_doubled = False
            self._expects = "comma"
            return at + 1
        self._stack.pop()
        self.is_complete = not self._stack
        return self._passed(at, out, "}" if top[0] == "=" else "]", "comma")

    def _read_string(self, text: str, at: int, out: list[str]) -> int:
        quote = self._quote
        end = text.find(quote, at)
        stop = end if end >= 0 else len(text)
        escape = text.find("\\", at, stop) if quote in self._notation.escaped else -1
        if escape == at:
            return _read_escape(text, at, out)
        if escape >= 0:
            stop = escape
        elif end == at:
            out.append('"')
            self._quote = ""
            return end + len(quote)
        elif end < 0:
            stop -= next((n for n in range(min(len(quote) - 1, stop - at), 0, -1) if text.endswith(quote[:n])), 0)
        out.append(_json_inside(text[at:stop]))
        return stop if stop > at else -1

    def _passed(self, at: int, out: list[str], json_text: str, expects: str) -> int:
        out.append(json_text)
        self._expects = expects
        return at + 1

    def _broken(self, at: int) -> int:
        self.is_broken = True
        return at


def _read_escape(text: str, at: int, out: list[str]) -> int:
    match = _ESCAPE.match(text, at)
    is_short = len(text) - at < _LONGEST_ESCAPE
    if is_short and (match is None or (match.end() == len(text) and text[at + 1] in "01234567")):
        return -1
    if match is None:
        out.append("\\\\")
        return at + 1
    code, kind = match[0][1:], match[0][1]
    if kind in "xuU" or kind in "01234567":
        point = int(code[1:], 16) if kind in "xuU" else int(code, 8)
        # Half of a surrogate pair is not a character, but JSON can write it.
        is_half = 0xD800 <= point <= 0xDFFF
        out.append(f"\\u{point:04x}" if is_half else _json_inside(chr(point) if point <= 0x10FFFF else match[0]))
    else:
        out.append(_json_inside(_ESCAPED.get(code, code if code in "\\'\"" else match[0])))
    return match.end()


def _json_inside(text: str) -> str:
    return encode_basestring(text)[1:-1]


def _json_word(word: str, notation: Notation) -> str | None:
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if _NUMBER.match(word):
        return word
    return encode_basestring(word) if notation.has_bare_strings else None
