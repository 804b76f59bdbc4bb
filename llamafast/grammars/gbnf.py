"""Parses GBNF, llama.cpp's grammar format, into rules over bytes. Endless and exploding grammars are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llamafast.errors import GrammarError
from llamafast.grammars.byte_rules import ByteRules, check_left_recursion, keep_productive

_MAX_DEPTH = 64  # of nested groups
_MAX_ELEMENTS = 100_000
_MAX_REPEAT = 10_000
_MAX_CODE_POINT = 0x10FFFF
_WORD = re.compile(r"[a-zA-Z0-9_-]+")
_REPEAT = re.compile(r"\{ *(\d{1,20}) *(,? *)(\d{1,20})? *\}", re.ASCII)
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_ESCAPED = {"n": 10, "r": 13, "t": 9, '"': 34, "\\": 92, "[": 91, "]": 93, "-": 45, "^": 94}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def parse_gbnf(text: str) -> ByteRules:
    """The rules of a grammar whose root is named "root". Raises GrammarError.

    Undefined rules, rules that are defined twice, left recursion, rules that never end, and too many repetitions are
    refused.
    Source: grammars/README.md of llama.cpp describes the format.
    """
    rules = _Parser(text).parse()
    keep_productive(rules)
    check_left_recursion(rules)
    return rules


class _Parser:
    """A recursive descent parser. Groups and repetitions become rules without a name."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._names: dict[str, int] = {"root": 0}
        self._rules = ByteRules([[]])
        self._defined: set[str] = set()
        self._set_numbers: dict[int, int] = {}
        self._class_rules: dict[tuple[tuple[int, int], ...], list[int]] = {}
        self._num_elements = 0

    def parse(self) -> ByteRules:
        self._skip(_SPACE_OR_LINES)
        while self._pos < len(self._text):
            self._rule()
            self._skip(_SPACE_OR_LINES)
        missing = self._names.keys() - self._defined
        if missing:
            raise GrammarError(f"the rule {min(missing)!r} is not defined")
        return self._rules

    def _rule(self) -> None:
        name = self._word()
        self._skip(_SPACE)
        if not self._take("::="):
            raise self._error("::= expected")
        if name in self._defined:
            raise self._error(f"the rule {name!r} is defined twice")
        self._defined.add(name)
        self._skip(_SPACE_OR_LINES)
        self._rules.rules[self._number(name)] = self._alternatives(0)
        if self._pos < len(self._text) and self._text[self._pos] not in "\r\n":
            raise self._error("the end of the rule expected")

    def _alternatives(self, depth: int) -> list[list[int]]:
        if depth > _MAX_DEPTH:
            raise self._error(f"groups are nested deeper than {_MAX_DEPTH}")
        alternatives = [self._sequence(depth)]
        while self._take_bar(depth):
            self._skip(_SPACE_OR_LINES)
            alternatives.append(self._sequence(depth))
        return alternatives

    def _take_bar(self, depth: int) -> bool:
        start = self._pos
        self._skip(_SPACE_OR_LINES)
        if self._take("|"):
            return True
        if depth == 0:
            self._pos = start  # a line break ends a rule
        return False

    def _sequence(self, depth: int) -> list[int]:
        elements: list[int] = []
        while True:
            self._skip(_SPACE_OR_LINES if depth else _SPACE)
            item = self._item(depth)
            if item is None:
                return elements
            self._skip(_SPACE_OR_LINES if depth else _SPACE)
            while (bounds := self._repetition()) is not None:
                item = self._repeat(item, *bounds)
                self._skip(_SPACE_OR_LINES if depth else _SPACE)
            elements += item

    def _item(self, depth: int) -> list[int] | None:
        """The elements of one literal, class, reference or group. None: none begins here."""
        char = self._text[self._pos : self._pos + 1]
        if char == '"':
            return self._literal()
        if char == "[":
            return self._class()
        if char == ".":
            self._pos += 1
            return self._char_set([(0, _MAX_CODE_POINT)])
        if char == "(":
            self._pos += 1
            alternatives = self._alternatives(depth + 1)
            if not self._take(")"):
                raise self._error(") expected")
            return self._nameless(alternatives)
        if char and _WORD.match(char):
            return [-2 - self._number(self._word())]
        return None

    def _literal(self) -> list[int]:
        self._pos += 1
        elements: list[int] = []
        while not self._take('"'):
            elements += [self._byte_set(1 << byte) for byte in chr(self._char()).encode()]
        return elements

    def _class(self) -> list[int]:
        self._pos += 1
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            low = high = self._char()
            if self._text[self._pos : self._pos + 1] == "-" and self._text[self._pos + 1 : self._pos + 2] != "]":
                self._pos += 1
                high = self._char()
            ranges.append((low, high))
        return self._char_set(_complement(ranges) if is_negated else ranges)

    def _char(self) -> int:
        """The code point of the next character, which may be escaped."""
        char = self._text[self._pos : self._pos + 1]
        if not char:
            raise self._error("the text ends within a literal or class")
        self._pos += 1
        if char != "\\":
            return ord(char)
        escaped = self._text[self._pos : self._pos + 1]
        self._pos += 1
        if escaped in _HEX_DIGITS:
            digits = self._text[self._pos : self._pos + _HEX_DIGITS[escaped]]
            self._pos += len(digits)
            code_point = int(digits, 16) if re.fullmatch(r"[0-9a-fA-F]+", digits) else -1
            if 0 <= code_point < 0xD800 or 0xDFFF < code_point <= _MAX_CODE_POINT:
                return code_point
        elif escaped in _ESCAPED:
            return _ESCAPED[escaped]
        raise self._error("unknown escape")

    def _repetition(self) -> tuple[int, int | None] | None:
        """(minimum, maximum) of the repetition operator here; a maximum of None is no limit. None: there is no
        operator.
        """
        for operator, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(operator):
                return bounds
        if self._text[self._pos : self._pos + 1] != "{":
            return None
        match = _REPEAT.match(self._text, self._pos)
        if match is None or (match[3] and not match[2].strip()):
            raise self._error("a repetition is {m}, {m,} or {m,n}")
        self._pos = match.end()
        least = int(match[1])
        most = int(match[3]) if match[3] else None if match[2].strip() else least
        if most is not None and most < least:
            raise self._error(f"the repetition {match[0]} allows nothing")
        if max(least, most or 0) > _MAX_REPEAT:
            raise self._error(f"the repetition {match[0]} is beyond {_MAX_REPEAT}")
        return least, most

    def _repeat(self, item: list[int], least: int, most: int | None) -> list[int]:
        num_copies = least + 1 if most is None else most
        if self._num_elements + num_copies * (len(item) + 2) > _MAX_ELEMENTS:
            raise self._error(f"the grammar has more than {_MAX_ELEMENTS} elements")
        if most is None:
            rest = self._nameless([])
            self._rules.rules[-2 - rest[0]] = [[*item, *rest], []]
        else:
            rest = []
            for _ in range(most - least):
                rest = self._nameless([[*item, *rest], []])
        self._count(num_copies * (len(item) + 2))
        return item * least + rest

    def _char_set(self, ranges: list[tuple[int, int]]) -> list[int]:
        """The elements that match one character in these ranges of code points."""
        key = tuple(sorted(ranges))
        if key not in self._class_rules:
            one_byte, alternatives = 0, []
            for low, high in ranges:
                for sequence in _utf8_sequences(low, high):
                    sets = [sum(1 << byte for byte in range(first, last + 1)) for first, last in sequence]
                    if len(sets) == 1:
                        one_byte |= sets[0]
                    else:
                        alternatives.append([self._byte_set(bits) for bits in sets])
            if one_byte:
                alternatives.append([self._byte_set(one_byte)])
            is_one = len(alternatives) == 1
            self._class_rules[key] = alternatives[0] if is_one else self._nameless(alternatives)
        return self._class_rules[key]

    def _byte_set(self, bits: int) -> int:
        self._count(1)
        number = self._set_numbers.setdefault(bits, len(self._rules.byte_sets))
        if number == len(self._rules.byte_sets):
            self._rules.byte_sets.append(bits)
        return number

    def _nameless(self, alternatives: list[list[int]]) -> list[int]:
        self._rules.rules.append(alternatives)
        self._count(1)
        return [-1 - len(self._rules.rules)]

    def _number(self, name: str) -> int:
        if name not in self._names:
            self._names[name] = len(self._rules.rules)
            self._nameless([])
        return self._names[name]

    def _count(self, num_elements: int) -> None:
        self._num_elements += num_elements
        if self._num_elements > _MAX_ELEMENTS:
            raise self._error(f"the grammar has more than {_MAX_ELEMENTS} elements")

    def _word(self) -> str:
        match = _WORD.match(self._text, self._pos)
        if match is None:
            raise self._error("a rule's name expected")
        self._pos = match.end()
        return match[0]

    def _skip(self, space: re.Pattern[str]) -> None:
        match = space.match(self._text, self._pos)
        assert match is not None
        self._pos = match.end()

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._pos):
            return False
        self._pos += len(text)
        return True

    def _error(self, message: str) -> GrammarError:
        line = self._text.count("\n", 0, self._pos) + 1
        return GrammarError(f"line {line} of the grammar: {message}")


def _complement(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            out.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _MAX_CODE_POINT:
        out.append((start, _MAX_CODE_POINT))
    return out


def _utf8_sequences(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """The UTF-8 of the code points low to high, as sequences of byte ranges. Source: the utf8-ranges method of RE2."""
    parts = [(low, high)]
    while parts:
        low, high = parts.pop()
        if low > high:
            continue
        if low <= 0xDFFF and high >= 0xD800:  # surrogates have no UTF-8
            parts += [(low, 0xD7FF), (0xE000, high)]
            continue
        cut = next((limit for limit in (0x7F, 0x7FF, 0xFFFF) if low <= limit < high), None)
        for bits in (6, 12, 18) if cut is None and high > 0x7F else ():
            mask = (1 << bits) - 1
            if low & ~mask != high & ~mask:
                if low & mask:
                    cut = low | mask
                elif high & mask != mask:
                    cut = (high & ~mask) - 1
            if cut is not None:
                break
        if cut is not None:
            parts += [(low, cut), (cut + 1, high)]
        else:
            yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))
