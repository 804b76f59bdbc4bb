"""Shape: what a tool's JSON Schema says about one value that a model writes as bare text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from typing import NoReturn

# References may lead in circles.
_MAX_DEPTH = 8

# Longer values are not tried as Python's: its parser is slow.
_MAX_PYTHON = 100_000

_STRING = frozenset({"string"})
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class Shape:
    """types: what the value may be, in JSON Schema's words; None: anything. root: where references lead to."""

    __slots__ = ("_root", "_schema", "types")

    def __init__(self, schema: object, root: Mapping[str, object]) -> None:
        self._schema = schema
        self._root = root
        self.types = _types(schema, root)

    def member(self, key: str) -> Shape:
        """An object's member of that name."""
        for branch in _branches(self._schema, self._root):
            properties = branch.get("properties")
            if isinstance(properties, Mapping) and key in properties:
                return Shape(properties[key], self._root)
        others = [branch.get("additionalProperties") for branch in _branches(self._schema, self._root)]
        return Shape(others[0], self._root) if others else ANY

    def item(self) -> Shape:
        """A list's items."""
        items = [branch["items"] for branch in _branches(self._schema, self._root) if "items" in branch]
        return Shape(items[0], self._root) if items else ANY

    def value(self, text: str) -> str:
        """A whole value, in JSON."""
        if self.types != _STRING and text not in _strings(self._schema, self._root):
            word = text.strip()
            if not word and self.types is not None and not self.types & _STRING:
                word = "[]" if "array" in self.types else "{}" if "object" in self.types else ""
            word = _PYTHON_WORDS.get(word, word)
            if self._allows(word):
                return word
            word = _from_python(word)
            if self._allows(word):
                return word
        return encode_basestring(text)

    def _allows(self, json_text: str) -> bool:
        """Whether it is JSON of a type that the value may have, and no string."""
        try:
            kinds = _kinds(loads(json_text))
        except ValueError:
            return False
        return "string" not in kinds if self.types is None else bool(kinds & self.types - _STRING)


def loads(text: str) -> object:
    """JSON text to a value. Raises ValueError if it is none (NaN and Infinity are none), or too deep."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _from_python(text: str) -> str:
    """A list or dict as Python prints it, in JSON. Empty: it is none."""
    if text[:1] not in ("[", "{") or len(text) > _MAX_PYTHON:
        return ""
    try:
        value: object = ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (dict, list)) else ""
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""


def _kinds(value: object) -> frozenset[str]:
    """The types of JSON Schema that a value is of."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, (int, float)):
        return frozenset({"number", "integer"} if value == value // 1 else {"number"})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"object" if isinstance(value, dict) else "array"})


def _types(schema: object, root: Mapping[str, object]) -> frozenset[str] | None:
    """What a value may be; None: anything."""
    types: set[str] = set()
    for branch in _branches(schema, root):
        named = branch.get("type")
        values = branch["enum"] if "enum" in branch else [branch["const"]] if "const" in branch else None
        if isinstance(named, str):
            types.add(named)
        elif isinstance(named, Sequence):
            types.update(name for name in named if isinstance(name, str))
        elif isinstance(values, Sequence):
            types.update(kind for value in values for kind in _kinds(value))
        elif "properties" in branch:
            types.add("object")
        else:
            return None
    return frozenset(types) or None


def _strings(schema: object, root: Mapping[str, object]) -> Iterator[str]:
    for branch in _branches(schema, root):
        values = branch.get("enum", [branch.get("const")])
        if isinstance(values, Sequence):
            yield from (value for value in values if isinstance(value, str))


def _branches(schema: object, root: Mapping[str, object], depth: int = 0) -> Iterator[Mapping[str, object]]:
    """The schemas that say what a value is: without references and alternatives."""
    if not isinstance(schema, Mapping) or depth == _MAX_DEPTH:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _branches(_resolve(reference, root), root, depth + 1)
        return
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        if isinstance(branches, Sequence) and branches and "type" not in schema:
            for branch in branches[:1] if word == "allOf" else branches:
                yield from _branches(branch, root, depth + 1)
            return
    yield schema


def _resolve(reference: str, root: Mapping[str, object]) -> object:
    found: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(found, Mapping):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


ANY = Shape(None, {})
