"""Parses large JSON texts in pieces, so that no call of orjson holds the GIL for more than about 20 ms."""

from __future__ import annotations

import secrets
from itertools import pairwise

import orjson

from llamafast._json_shape import long_strings

_PIECE_BYTES = 2**20


def loads(raw: bytes, piece: int = _PIECE_BYTES) -> object:
    """The result of orjson.loads(raw). Strings longer than `piece` bytes are parsed in pieces.

    Raises orjson.JSONDecodeError.
    """
    strings = long_strings(raw, piece) if len(raw) > piece else []
    if not strings:
        return orjson.loads(raw)
    mark = secrets.token_hex(16)
    texts: dict[str, str] = {}
    parts: list[bytes] = []
    end = 0
    for places in strings:
        name = f"{mark}{len(texts)}"
        texts[name] = "".join([_inside(raw[start:stop]) for start, stop in pairwise(places)])
        parts += [raw[end : places[0]], name.encode()]
        end = places[-1]
    parts.append(raw[end:])
    whole = [orjson.loads(b"".join(parts))]
    _put_back(whole, texts)
    return whole[0]


def _inside(raw: bytes) -> str:
    text: str = orjson.loads(b'"' + raw + b'"')
    return text


def _put_back(document: list[object], texts: dict[str, str]) -> None:
    """IN/OUT document: each name that is a key of `texts` becomes its text."""
    left: list[object] = [document]
    while left:
        part = left.pop()
        if isinstance(part, list):
            for i, value in enumerate(part):
                if isinstance(value, str):
                    part[i] = texts.get(value, value)
            left += (value for value in part if isinstance(value, (list, dict)))
        elif isinstance(part, dict):
            for name in texts.keys() & part.keys():
                part[texts[name]] = part.pop(name)
            for name, value in part.items():
                if isinstance(value, str):
                    part[name] = texts.get(value, value)
            left += (value for value in part.values() if isinstance(value, (list, dict)))
