"""A JSON Schema whose strings do not hold a closing tag: JSON between tags ends at the first one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from llamafast.parsing import schema_parts
from llamafast.parsing.schema_parts import Schema

_ANY = "_any"  # the definition of every value
_TABLES = ("properties", "patternProperties", "$defs", "definitions")
_ROWS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_PARTS = ("items", "additionalProperties", "additionalItems", "contains")

_Plain: TypeAlias = dict[str, object]


def guarded(schema: Schema, close: str) -> _Plain:
    """A schema that allows what the given one does, without strings that hold the first two characters of `close`.

    Where properties are declared, no others are allowed: their names could not be kept from holding the tag.
    """
    first, second = re.escape(close[0]), re.escape(close[1])
    pattern = f"^([^{first}]|{first}+[^{first}{second}])*{first}*$"
    out = _guard(schema, pattern)
    any_value: _Plain = {
        "anyOf": [
            {"type": ["number", "boolean", "null"]},
            {"type": "string", "pattern": pattern},
            {"type": "array", "items": _any()},
            {"type": "object", "patternProperties": {pattern: _any()}, "additionalProperties": False},
        ]
    }
    definitions = out.get("$defs")
    out["$defs"] = {**(definitions if isinstance(definitions, dict) else {}), _ANY: any_value}
    return out


def _any() -> _Plain:
    return {"$ref": f"#/$defs/{_ANY}"}


def _guard(schema: Schema, pattern: str) -> _Plain:
    out = dict(schema)
    for name in _TABLES:
        table = out.get(name)
        if isinstance(table, Mapping):
            out[name] = {key: _part(part, pattern) for key, part in table.items()}
    for name in _ROWS:
        row = out.get(name)
        if isinstance(row, list):
            out[name] = [_part(part, pattern) for part in row]
    for name in _PARTS:
        if isinstance(out.get(name), Mapping):
            out[name] = _part(out[name], pattern)
    if out.keys() & {"enum", "const", "$ref", "anyOf", "oneOf", "allOf"}:
        return out
    types = schema_parts.types(out)
    if "string" in types and "format" not in out:
        _guard_string(out, pattern)
    if "array" in types:
        rest = "additionalItems" if isinstance(out.get("items"), list) else "items"
        if out.get(rest, True) is True:
            out[rest] = _any()
    if "object" in types:
        _guard_object(out, pattern)
    return out


def _part(part: object, pattern: str) -> object:
    return _guard(part, pattern) if isinstance(part, Mapping) else part


def _guard_string(schema: _Plain, pattern: str) -> None:
    if "pattern" in schema:
        schema["allOf"] = [{"type": "string", "pattern": pattern}]
    else:
        schema["pattern"] = pattern


def _guard_object(schema: _Plain, pattern: str) -> None:
    if schema.get("additionalProperties", True) is False:
        return
    if not schema.keys() & {"properties", "patternProperties", "propertyNames"}:
        values = schema.get("additionalProperties", True)
        schema["patternProperties"] = {pattern: _any() if values is True else values}
    if "propertyNames" not in schema:
        schema["additionalProperties"] = False
