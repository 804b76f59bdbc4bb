"""Arguments that a model writes as bare text: to JSON, by the tool's schema, as they come."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from typing import NoReturn

from llamafast.parsing.tools import Tool

# References may lead in circles.
_MAX_DEPTH = 8

# Longer values are not tried as Python's: its parser is slow.
_MAX_PYTHON = 100_000

# Characters of null and the white space around it.
_MAX_NULL = 16

_STRING = frozenset({"string"})
_STRING_OR_NULL = frozenset({"string", "null"})
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ArgumentWriter:
    """The arguments object of one call, as fragments of JSON text.

    Strings are written while they come, all other values when they are closed. A value that is no JSON of a type that
    its schema allows is a string. Without a schema all JSON but strings in quotes is itself. Python's words and lists
    are taken for JSON's: some templates show models that.
    """

    __slots__ = ("_is_streaming", "_num_values", "_parameters", "_pieces", "_types", "_values")

    def __init__(self, name: str, tools: Sequence[Tool] | None) -> None:
        self._parameters = next((tool.parameters for tool in tools or () if tool.name == name), {})
        self._num_values = 0
        self._types: frozenset[str] | None = None  # None: any
        self._values: frozenset[str] = frozenset()  # strings among an enum's values
        self._pieces: list[str] = []
        self._is_streaming = False

    def begin(self, key: str, *, is_string: bool | None = None) -> str:
        """A value begins. is_string: the model says itself whether it is one; None: the schema decides."""
        self._pieces.clear()
        if is_string is None:
            schema = _property(self._parameters, key)
            self._types, self._values = _types(schema, self._parameters), frozenset(_strings(schema, self._parameters))
        else:
            self._types = _STRING if is_string else None
            self._values = frozenset()
        self._is_streaming = self._types == _STRING
        head = f"{', ' if self._num_values else '{'}{encode_basestring(key)}: "
        self._num_values += 1
        return head + '"' if self._is_streaming else head

    def add(self, text: str) -> str:
        """More of the value."""
        if self._is_streaming:
            return encode_basestring(text)[1:-1]
        self._pieces.append(text)
        if self._types == _STRING_OR_NULL:
            begun = "".join(self._pieces)
            # Only what may still become null has to wait.
            if len(begun) > _MAX_NULL or not any(word.startswith(begun.strip()) for word in ("null", "None")):
                self._is_streaming = True
                return encode_basestring(begun)[:-1]
        return ""

    def end(self) -> str:
        """The value is over."""
        if self._is_streaming:
            return '"'
        text = "".join(self._pieces)
        return encode_basestring(text) if text in self._values else _value(text, self._types)

    def cut(self) -> str:
        """The whole text is over within the value."""
        return "" if self._is_streaming else encode_basestring("".join(self._pieces))[:-1]

    def close(self) -> str:
        """The object is over."""
        return "}" if self._num_values else "{}"


def loads(text: str) -> object:
    """JSON text to a value. Raises ValueError if it is none (NaN and Infinity are none), or too deep."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _value(text: str, types: frozenset[str] | None) -> str:
    word = text.strip()
    word = _PYTHON_WORDS.get(word, word)
    try:
        kinds = _kinds(loads(word))
    except ValueError:
        word = _from_python(word)
        if not word:
            return encode_basestring(text)
        kinds = _kinds(loads(word))
    is_itself = "string" not in kinds if types is None else bool(kinds & types - _STRING)
    return word if is_itself else encode_basestring(text)


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


def _property(parameters: Mapping[str, object], key: str) -> object:
    parameters = next(_branches(parameters, parameters), parameters)
    properties = parameters.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return parameters.get("additionalProperties")


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
