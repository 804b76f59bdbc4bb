"""The types of JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from llamafast.errors import GrammarError

Schema: TypeAlias = Mapping[str, object]

STRING = frozenset({"string"})
NUMBERS = frozenset({"number", "integer"})
SCALARS = frozenset({"number", "integer", "boolean", "null"})
NESTED = frozenset({"array", "object"})
ALL = STRING | SCALARS | NESTED


def as_schema(value: object) -> Schema:
    """The schema, if it is an object. {} for other values, such as `true`."""
    return value if isinstance(value, Mapping) else {}


def kinds(value: object) -> frozenset[str]:
    """The types of a value. A whole number has two."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, (int, float)):
        return NUMBERS if value == value // 1 else frozenset({"number"})
    if isinstance(value, str):
        return STRING
    return frozenset({"object" if isinstance(value, Mapping) else "array"})


def declared(schema: Schema) -> frozenset[str]:
    """The types that `type` allows. "number" comes with "integer", which it includes. Raises GrammarError.

    Type names may be in capitals, as in Gemini's schemas.
    """
    named = schema.get("type")
    if named is None:
        return ALL
    names = frozenset(str(each).lower() for each in (named if isinstance(named, list) else [named]))
    if names - ALL:
        raise GrammarError(f"unknown type {min(names - ALL)!r}")
    return names | NUMBERS if "number" in names else names


def names(types: frozenset[str]) -> list[str]:
    """The value of `type` for these types."""
    return sorted(types - {"integer"} if "number" in types else types)


def is_equal(one: object, other: object) -> bool:
    """Whether two values are equal in JSON Schema: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return one == other
