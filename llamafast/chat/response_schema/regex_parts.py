"""Splits the regexes of response schemas into parts, so that a parser can look for their literal texts in a stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

# text: these characters. any: as few characters as possible. all: as many as possible. run: one or more characters of a
# class. one: a character of a class. space: any white space. start, end: of the text. option: its content or nothing.
# capture: the wanted text. ahead: a lookahead.
Kind: TypeAlias = Literal["text", "any", "all", "run", "one", "space", "start", "end", "option", "capture", "ahead"]
Parts: TypeAlias = tuple["Part", ...]

_TOKEN = re.compile(
    r"(?P<open>\((?:\?(?::|=|P<\w+>))?)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<escape>\\.)|(?P<char>[^\[\](){}*+?|\\])",
    re.DOTALL,
)
_REPEAT = re.compile(r"[*+?]\??|\{")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_EVERYTHING = (".", r"[\s\S]", r"[\S\s]", r"[\d\D]", r"[\w\W]")


class UnsupportedRegexError(ValueError):
    """The regex contains more than literal texts, classes, options and one kind of gap."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a regex.

    kind: what the part matches (see Kind).
    source: the part of the regex.
    text: the characters of a literal text.
    alternatives: the alternatives of a group.
    """

    kind: Kind
    source: str
    text: str = ""
    alternatives: tuple[Parts, ...] = ()


def parse_regex(source: str) -> Parts:
    """The parts of a regex, in order. Raises UnsupportedRegexError."""
    alternatives, end = _alternatives(source, 0)
    if end != len(source) or len(alternatives) != 1:
        raise UnsupportedRegexError(source)
    return alternatives[0]


def literal(parts: Parts) -> str | None:
    """The text that the parts match, if it is one fixed text."""
    return "".join(part.text for part in parts) if all(part.kind == "text" for part in parts) else None


def source_of(parts: Parts) -> str:
    """The regex of the parts."""
    return "".join(part.source for part in parts)


def _alternatives(source: str, at: int) -> tuple[tuple[Parts, ...], int]:
    """The alternatives up to the end of the group (or of the regex), and the offset of that end."""
    done: list[Parts] = []
    parts: list[Part] = []
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            raise UnsupportedRegexError(source)
        if token["close"]:
            break
        if token["bar"]:
            done.append(_joined(parts))
            parts, at = [], token.end()
            continue
        part, at = _group(source, token) if token["open"] else _atom(source, token)
        parts.append(part)
    return (*done, _joined(parts)), at


def _group(source: str, token: re.Match[str]) -> tuple[Part, int]:
    alternatives, end = _alternatives(source, token.end())
    if not source.startswith(")", end):
        raise UnsupportedRegexError(source)
    end += 1
    repeat = _REPEAT.match(source, end)
    text = source[token.start() : repeat.end() if repeat else end]
    kind = token["open"]
    if kind == "(?:" and repeat is not None and repeat[0] == "?":
        return Part("option", text, alternatives=alternatives), repeat.end()
    if kind == "(?:" and repeat is None and len(alternatives) == 1 and (inner := literal(alternatives[0])) is not None:
        return Part("text", text, inner), end
    if repeat is not None or kind == "(?:":
        raise UnsupportedRegexError(source)
    return Part("ahead" if kind == "(?=" else "capture", text, alternatives=alternatives), end


def _atom(source: str, token: re.Match[str]) -> tuple[Part, int]:
    repeat = _REPEAT.match(source, token.end())
    end = repeat.end() if repeat else token.end()
    atom, times, text = token[0], repeat[0] if repeat else "", source[token.start() : end]
    if atom in _EVERYTHING and times in ("*?", "*"):
        return Part("any" if times == "*?" else "all", text), end
    if atom == r"\s" and times == "*":
        return Part("space", text), end
    if (token["set"] or atom in (r"\w", r"\d", r"\S")) and times in ("+", "+?", ""):
        return Part("run" if times else "one", text), end
    if atom == "^" and not times:
        return Part("start", text), end
    if atom in ("$", r"\Z") and not times:
        return Part("end", text), end
    if atom in _EVERYTHING or (token["escape"] and atom[1].isalnum() and atom[1] not in _ESCAPED):
        raise UnsupportedRegexError(source)
    char = _ESCAPED.get(atom[1], atom[1]) if token["escape"] else atom
    if times == "?":
        return Part("option", text, alternatives=((Part("text", atom, char),),)), end
    if times:
        raise UnsupportedRegexError(source)
    return Part("text", text, char), end


def _joined(parts: list[Part]) -> Parts:
    """The parts, with consecutive characters joined into one text."""
    joined: list[Part] = []
    for part in parts:
        if part.kind == "text" and joined and joined[-1].kind == "text":
            joined[-1] = Part("text", joined[-1].source + part.source, joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(joined)
