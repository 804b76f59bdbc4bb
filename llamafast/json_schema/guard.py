"""A JSON Schema whose strings do not hold a closing tag: JSON between tags ends at the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from llamafast.json_schema import types
from llamafast.json_schema.lark_regex import without
from llamafast.json_schema.refs import reference_of
from llamafast.json_schema.types import Schema
from llamafast.json_schema.walk import mapped

_ANY = "_any"  # the definition of every value
_ROWS = ("anyOf", "oneOf", "allOf")

_Plain: TypeAlias = dict[str, object]


def guarded(schema: Schema, close: str) -> _Plain:
    """A standalone schema that allows what the given one does, without strings that hold the text `close`.

    Where properties are declared, no others are allowed: their names could not be kept from holding the tag.
    """
    pattern = without(close)
    out = _guard(schema, close, pattern)
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


def _guard(schema: Schema, close: str, pattern: str, *, is_covered: bool = False) -> _Plain:
    """is_covered: what stands around the schema is guarded and holds for the same value."""
    applied = {name: row for name in _ROWS if isinstance(row := schema.get(name), list)}
    rest = {name: part for name, part in schema.items() if name not in applied}
    out = mapped(rest, lambda part: _guard(part, close, pattern) if isinstance(part, Mapping) else part)
    covers = is_covered or "type" in schema
    for name, row in applied.items():
        out[name] = [
            _guard(part, close, pattern, is_covered=covers) if isinstance(part, Mapping) else part for part in row
        ]
    enum = out.get("enum")
    if isinstance(enum, list):
        out["enum"] = [value for value in enum if not _holds(value, close)]
    if _holds(out.get("const"), close):
        del out["const"]
        out["enum"] = []
    if "enum" in out or "const" in out:
        return out
    if reference_of(out) is not None or ("type" not in out and (is_covered or applied)):
        return out
    kinds = types.declared(out)
    if "string" in kinds and "format" not in out:
        _guard_string(out, pattern)
    others = "additionalItems" if isinstance(out.get("items"), list) else "items"
    if "array" in kinds and out.get(others, True) is True:
        out[others] = _any()
    if "object" in kinds:
        _guard_object(out, pattern)
    return out


def _holds(value: object, close: str) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(part, close) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_holds(part, close) for part in value)
    return isinstance(value, str) and close in value


def _guard_string(schema: _Plain, pattern: str) -> None:
    if "pattern" in schema:
        others = schema.get("allOf")
        schema["allOf"] = [*(others if isinstance(others, list) else []), {"pattern": pattern}]
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
