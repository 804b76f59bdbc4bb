"""What a JSON Schema says about a string, as one regular expression over its text."""

from __future__ import annotations

import re

from llamafast.parsing import schema_parts
from llamafast.parsing.schema_parts import Schema

_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE = f"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,5}}",
    "email": rf"[a-zA-Z0-9_-]{{1,30}}(\.[a-zA-Z0-9_-]{{1,30}}){{0,3}}@{_LABEL}(\.{_LABEL}){{1,4}}",
    "duration": "P([0-9]{1,4}D(T[0-9]{1,4}H([0-9]{1,4}M)?)?|T[0-9]{1,4}[HMS]|[0-9]{1,4}[WMY])",
}
_KEY = "[a-zA-Z_][a-zA-Z0-9_]{0,63}"
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\x0b\x0c\r "}

_LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9bB]")
_PIECE = re.compile(r"\\.|[^\\]|\\$", re.DOTALL)


def string_regex(schema: Schema, close: str = "", *, strict: bool = True) -> str | None:
    """A Lark terminal for the strings of a schema without combinations, by pattern, format and length.

    None: every string. close: a text that none of them holds. A pattern that looks around raises ValueError, or is
    dropped where it is not strict.
    """
    parts: list[str] = []
    pattern, name = schema.get("pattern"), schema.get("format")
    if strict and looks_around(schema):
        raise ValueError(f"the pattern {pattern!r} looks around or back")
    if isinstance(pattern, str) and not looks_around(schema):
        parts.append(_slashed(_whole(pattern)))
    if isinstance(name, str) and name in _FORMATS:
        parts.append(_slashed(_FORMATS[name]))
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) or isinstance(most, int):
        low, high = (least if isinstance(least, int) else 0), (most if isinstance(most, int) else "")
        parts.append(_slashed(f"(?s:.){{{low},{high}}}"))
    if not parts:
        return None
    if close:
        parts.append(f"~{_slashed(f'(?s:.)*{re.escape(close)}(?s:.)*')}")
    return " & ".join(parts)


def looks_around(schema: Schema) -> bool:
    """Whether the pattern of strings needs more than one look at them, which no grammar takes."""
    pattern = schema.get("pattern")
    return isinstance(pattern, str) and _LOOKS_AROUND.search(pattern) is not None


def key_regex(schema: Schema) -> str:
    """A Lark terminal for the names of properties, of which a schema says what `propertyNames` says."""
    names = schema_parts.values(schema)
    if names is not None:
        return _slashed("|".join(re.escape(name) for name in names if isinstance(name, str)))
    return string_regex(schema) or f"/{_KEY}/"


def _whole(pattern: str) -> str:
    """A pattern that may match anywhere as one that matches the whole string."""
    wholes = []
    for part in _alternatives(pattern):
        start = "" if part.startswith("^") else "(?s:.)*"
        end = "" if part.endswith("$") and not part.endswith("\\$") else "(?s:.)*"
        wholes.append(f"{start}({part[not start : len(part) - (not end)]}){end}")
    return "|".join(wholes)


def _alternatives(pattern: str) -> list[str]:
    """The alternatives at the top of an ECMA-262 pattern, its classes being those of ASCII."""
    parts, depth, is_class = [""], 0, False
    for piece in _PIECE.findall(pattern):
        text = piece
        if piece[0] == "\\":
            text = _escaped(piece, is_class)
        elif is_class:
            is_class = piece != "]"
        elif piece == "|" and not depth:
            parts.append("")
            continue
        else:
            depth += (piece == "(") - (piece == ")")
            is_class = piece == "["
        parts[-1] += text
    return parts


def _escaped(piece: str, is_class: bool) -> str:
    ranges = _CLASSES.get(piece[1:].lower())
    if ranges is None or (is_class and piece[1:].isupper()):
        return piece
    return ranges if is_class else f"[^{ranges}]" if piece[1:].isupper() else f"[{ranges}]"


def _slashed(regex: str) -> str:
    """A regular expression as Lark writes one."""
    pieces = ("\\/" if piece == "/" else "\\n" if piece == "\n" else piece for piece in _PIECE.findall(regex))
    return f"/{''.join(pieces)}/"
