"""Regular expressions in Lark's syntax: patterns of clients, texts, and expressions that exclude a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_PIECE = re.compile(r"\\.|[^\\]|\\$", re.DOTALL)
_WRITTEN = {"/": "\\/", "\n": "\\n", "\r": "\\r", "\\\n": "\\n", "\\\r": "\\r"}
_META = frozenset("\\.+*?()|[]{}^$#&-~/")
# ECMA-262's classes are those of ASCII. Characters in neither class are excluded, so that all validators agree.
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\x0b\x0c\r "}
_ANYTHING = "(?s:.)*"


def slashed(regex: str) -> str:
    """A regular expression in Lark's syntax, where two slashes begin a comment."""
    return f"/{''.join(_WRITTEN.get(piece, piece) for piece in _PIECE.findall(regex)) or '()'}/"


def escaped(text: str) -> str:
    """A regular expression that matches this text."""
    return "".join(f"\\{char}" if char in _META else f"\\x{ord(char):02x}" if char < " " else char for char in text)


def containing(text: str) -> str:
    """A regular expression for texts that contain this one, in slashes."""
    return slashed(f"{_ANYTHING}{escaped(text)}{_ANYTHING}")


def anchored(pattern: str) -> str:
    """A client's pattern, which may match anywhere, as a pattern of the whole string."""
    wholes = []
    for part in _alternatives(pattern):
        inner = _inside(part)
        if inner is not None:
            wholes.append(anchored(inner))
            continue
        start = "" if part.startswith("^") else _ANYTHING
        end = "" if _ends_anchored(part) else _ANYTHING
        wholes.append(f"{start}({_ascii(part[not start : len(part) - (not end)])}){end}")
    return "|".join(wholes)


def needs_lookaround(pattern: str) -> bool:
    """Whether a pattern needs lookarounds or backreferences, which no grammar supports."""
    tokens = [piece for piece, _, is_class in _tokens(pattern) if not is_class]
    groups = (i for i, piece in enumerate(tokens) if piece == "(")
    return any(re.fullmatch(r"\\[1-9bB]", piece) for piece in tokens) or any(
        re.match(r"\?<?[=!]", "".join(tokens[i + 1 : i + 4])) for i in groups
    )


def not_containing(*texts: str) -> str:
    """A regular expression for what contains none of these texts. It has no negation, which costs too much with a
    length.

    The texts begin with the same character. It occurs once in each of them; in a single text it may occur twice, at the
    beginning. None is the beginning of another.
    """
    first = escaped(texts[0][0])
    if min(map(len, texts)) == 1:
        return f"[^{first}]*"
    if texts[0][0] == texts[0][1]:
        return f"(?:[^{first}]|{first}[^{first}]|{first}{{2,}}[^{first}{escaped(texts[0][2])}])*{first}*"
    return f"[^{first}]*(?:{first}{_not_beginning([text[1:] for text in texts], first, f'[^{first}]*')})*"


def not_ending_within(text: str) -> str:
    """A regular expression for what does not end within this text: with its first two or more characters, but not all.

    The first character occurs once in the text.
    """
    first = escaped(text[0])
    rest = f"[^{first}]*"
    tail = rest
    for char in reversed(text[1:]):
        tail = f"(?:[^{first}{escaped(char)}]{rest}|{escaped(char)}{tail})"
    return f"{rest}|{_ANYTHING}{first}{tail}?"


def not_beginning(text: str) -> str:
    """A regular expression for what does not begin with this text."""
    return _not_beginning([text], "", _ANYTHING)


def _not_beginning(texts: Sequence[str], never: str, rest: str) -> str:
    """Like not_beginning for several texts and the character `never`. `rest` follows the first other character."""
    following: dict[str, list[str]] = {}
    for text in texts:
        following.setdefault(text[0], []).append(text[1:])
    branches = [f"[^{never}{''.join(map(escaped, following))}]{rest}"]
    for char, several in following.items():
        if all(several):
            branches.append(escaped(char) + _not_beginning(several, never, rest))
    return f"(?:{'|'.join(branches)})?"


def excluding_character(pattern: str, char: str) -> str | None:
    """A client's pattern for whole strings without this character. None: the pattern may need the character."""
    out, negated = list[str](), False
    pieces = list(_tokens(anchored(pattern)))
    for i, (piece, _, is_class) in enumerate(pieces):
        is_first = is_class and not pieces[i - 1][2]
        negated = piece == "^" if is_first else negated and is_class
        if is_class and negated:
            out.append(piece + escaped(char) if is_first else piece)
        elif piece == "." and not is_class:
            out.append(f"[^\\n{escaped(char)}]")
        elif piece in ("\\S", "\\W", "\\D") and not is_class:
            out.append(f"[^{_CLASSES[piece[1].lower()]}{escaped(char)}]")
        elif piece[0] == "\\" and piece[1:].isalnum() and piece[1:] not in "dwstnrfvbB":
            return None  # other classes, and characters by their codes
        elif is_class and piece == "-" and not is_first and pieces[i + 1][0] != "]":
            if not _is_beside(pieces[i - 1][0], pieces[i + 1][0], char):
                return None
            out.append(piece)
        elif piece[-1] == char:
            return None
        else:
            out.append(piece)
    return "".join(out)


def _is_beside(low: str, high: str, char: str) -> bool:
    """Whether a range in a class does not include this character."""
    return not low[-1] <= char <= high[-1] and len(low) == len(high) == 1


def _tokens(pattern: str) -> Iterator[tuple[str, int, bool]]:
    """The tokens of a pattern, each with its group depth and whether it is in a character class."""
    depth, is_class = 0, False
    for piece in _PIECE.findall(pattern):
        if is_class:
            yield piece, depth, True
            is_class = piece != "]"
            continue
        depth -= piece == ")"
        yield piece, depth, False
        depth += piece == "("
        is_class = piece == "["


def _alternatives(pattern: str) -> list[str]:
    parts = [""]
    for piece, depth, is_class in _tokens(pattern):
        if piece == "|" and not depth and not is_class:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _inside(part: str) -> str | None:
    """The content of the single group that a part consists of, if it contains an anchor."""
    pieces = list(_tokens(part))
    if not part.startswith("(") or sum(piece == ")" and not depth for piece, depth, _ in pieces) != 1:
        return None
    match = re.fullmatch(r"\((?:\?:|\?P?<\w+>)?(.*)\)", part, re.DOTALL)
    has_anchor = any(piece in "^$" and not is_class for piece, _, is_class in pieces)
    return match[1] if match is not None and has_anchor else None


def _ends_anchored(part: str) -> bool:
    pieces = list(_tokens(part))
    return bool(pieces) and pieces[-1][0] == "$" and not pieces[-1][2]


def _ascii(pattern: str) -> str:
    """The same pattern with the classes of ECMA-262."""
    out, is_negated, previous = [], False, ""
    for piece, _, is_class in _tokens(pattern):
        if previous == "[":
            is_negated = piece == "^"
        ranges = _CLASSES.get(piece[1:]) if piece[0] == "\\" else None
        if ranges is None or (is_class and is_negated):
            out.append(piece)
        else:
            out.append(ranges if is_class else f"[{ranges}]")
        previous = piece if piece == "[" and not is_class else ""
    return "".join(out)
