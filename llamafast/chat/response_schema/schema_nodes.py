"""SchemaNode: one node of a response schema (JSON Schema with regexes), which extracts a value from a text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from llamafast.chat.reading.literals import GEMMA, LiteralReader

_TYPES = ("string", "array", "object", "integer", "number", "boolean", "any", "null")


class _Absent:
    """The result where the text contains no value. JSON's null is a value."""


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class SchemaNode:
    """One node of a response schema.

    path: the path of the node in the schema, for error messages.
    const: a fixed value.
    regex: x-regex, whose match is the value.
    iterator: x-regex-iterator, each match of which is an item.
    key_value: x-regex-key-value, each match of which is a member.
    parser: the name of an x-parser.
    type: a JSON Schema type, or "any".
    properties, required, additional: the members of an object.
    items: the node of an array's items.
    choices: the nodes of oneOf. The first that finds a value counts.
    """

    path: str
    const: object = ABSENT
    regex: re.Pattern[str] | None = None
    iterator: re.Pattern[str] | None = None
    key_value: re.Pattern[str] | None = None
    parser: str | None = None
    type: str | None = None
    properties: Mapping[str, SchemaNode] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    additional: SchemaNode | bool = False
    items: SchemaNode | None = None
    choices: tuple[SchemaNode, ...] = ()

    def value(self, given: object) -> object:
        """The value of this node in a text or in the result of a parser. ABSENT: it has none. Never raises."""
        if not isinstance(self.const, _Absent):
            return self.const
        if given is None or isinstance(given, _Absent):
            return given
        if self.regex is not None:
            given = captured_value(self.regex.search(given)) if isinstance(given, str) else ABSENT
        if self.iterator is not None and isinstance(given, str):
            given = [captured_value(match) for match in self.iterator.finditer(given)] or ABSENT
        if self.key_value is not None and isinstance(given, str):
            given = {match["key"]: match["value"] for match in self.key_value.finditer(given)} or ABSENT
        if self.parser is not None and isinstance(given, str):
            given = PARSERS[self.parser](given)
        return ABSENT if isinstance(given, _Absent) else self._typed(given)

    def _typed(self, given: object) -> object:
        if self.type == "object":
            return self._object(given)
        if self.type == "array":
            return self._array(given)
        if self.type == "string":
            return given if isinstance(given, str) else ABSENT
        if self.type in _CASTS:
            return _CASTS[self.type](given)
        values = (choice.value(given) for choice in self.choices)
        return next((value for value in values if not isinstance(value, _Absent)), ABSENT) if self.choices else given

    def _object(self, given: object) -> object:
        if isinstance(given, str):
            values = {name: node.value(given) for name, node in self.properties.items()}
        elif isinstance(given, dict):
            values = {name: node.value(given.get(name, ABSENT)) for name, node in self.properties.items()}
            others = {name: value for name, value in given.items() if name not in self.properties}
            if isinstance(self.additional, SchemaNode):
                values |= {name: self.additional.value(value) for name, value in others.items()}
            elif self.additional:
                values |= others
        else:
            return ABSENT
        values = {name: value for name, value in values.items() if not isinstance(value, _Absent)}
        return values if self.required <= values.keys() else ABSENT

    def _array(self, given: object) -> object:
        if not isinstance(given, list):
            return ABSENT
        if self.items is None:
            return given
        return [value for value in map(self.items.value, given) if not isinstance(value, _Absent)]


def compile_schema(schema: object, path: str = "response_schema") -> SchemaNode:
    """The node of a schema. Raises ValueError, which names the invalid place in the schema."""
    if not isinstance(schema, Mapping):
        raise ValueError(f"{path}: must be an object")
    kind = _kind(schema, path)
    iterator, key_value = _regex(schema, "x-regex-iterator", path), _regex(schema, "x-regex-key-value", path)
    if iterator is not None and kind != "array":
        raise ValueError(f"{path}: x-regex-iterator needs type array")
    if key_value is not None and kind != "object":
        raise ValueError(f"{path}: x-regex-key-value needs type object")
    if key_value is not None and not {"key", "value"} <= key_value.groupindex.keys():
        raise ValueError(f"{path}.x-regex-key-value: needs the groups (?P<key>...) and (?P<value>...)")
    parser = schema.get("x-parser")
    if parser is not None and parser not in PARSERS:
        raise ValueError(f"{path}.x-parser: {parser!r} is unknown; the known parsers are {', '.join(PARSERS)}")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise ValueError(f"{path}.properties: must be an object")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"{path}.required: must be a list of names")
    # Without properties in the schema, an object keeps all its members.
    additional = schema.get("additionalProperties", not properties)
    choices = schema.get("oneOf", [])
    if not isinstance(choices, list):
        raise ValueError(f"{path}.oneOf: must be a list")
    return SchemaNode(
        path=path,
        const=schema.get("const", ABSENT),
        regex=_regex(schema, "x-regex", path),
        iterator=iterator,
        key_value=key_value,
        parser=parser,
        type=kind,
        properties={name: compile_schema(inner, f"{path}.properties.{name}") for name, inner in properties.items()},
        required=frozenset(required),
        additional=(
            additional if isinstance(additional, bool) else compile_schema(additional, f"{path}.additionalProperties")
        ),
        items=compile_schema(schema["items"], f"{path}.items") if "items" in schema else None,
        choices=tuple(compile_schema(inner, f"{path}.oneOf[{i}]") for i, inner in enumerate(choices)),
    )


def captured_value(match: re.Match[str] | None) -> object:
    """The result of a match: its named groups, its first group, or the whole match. ABSENT: there is no match."""
    if match is None:
        return ABSENT
    if match.re.groupindex:
        return {name: value for name, value in match.groupdict().items() if value is not None}
    value = match[1] if match.re.groups else match[0]
    return ABSENT if value is None else value


def _kind(schema: Mapping[str, object], path: str) -> str | None:
    kind = schema.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
        raise ValueError(f"{path}.type: {kind!r} is not one of {', '.join(_TYPES)}")
    return kind


def _regex(schema: Mapping[str, object], key: str, path: str) -> re.Pattern[str] | None:
    source = schema.get(key)
    if source is None:
        return None
    if not isinstance(source, str):
        raise ValueError(f"{path}.{key}: must be a string")
    try:
        return re.compile(source, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{path}.{key}: {error}") from error


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ABSENT


def _gemma(text: str) -> object:
    reader = LiteralReader(GEMMA)
    json_text, _ = reader.read(text.strip(), 0)
    return _json(json_text) if reader.is_complete else ABSENT


def _integer(value: object) -> object:
    try:
        return int(value) if isinstance(value, (str, int, float)) else ABSENT
    except (ValueError, OverflowError):
        return ABSENT


def _number(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        return float(value) if isinstance(value, (str, bool)) else ABSENT
    except ValueError:
        return ABSENT


def _boolean(value: object) -> object:
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower(), ABSENT)
    return bool(value) if isinstance(value, (bool, int, float)) else ABSENT


PARSERS: dict[str, Callable[[str], object]] = {"json": _json, "gemma4-tool-call": _gemma}
_CASTS: dict[str, Callable[[object], object]] = {"integer": _integer, "number": _number, "boolean": _boolean}
