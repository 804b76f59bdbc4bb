"""Finds the subschemas of a JSON Schema: the one walk over its keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from llamafast.errors import GrammarError

Location: TypeAlias = tuple[Any, Any]  # a container, and the key or index of a schema in it

MAX_DEPTH = 100  # of the text

TABLES = ("properties", "patternProperties", "dependentSchemas")
DEFINITIONS = ("$defs", "definitions")
ROWS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
PARTS = (
    *("items", "additionalItems", "additionalProperties", "contains", "not", "propertyNames"),
    *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
)


def locations(schema: Mapping[str, Any], *, definitions: bool = False) -> Iterator[Location]:
    """The locations of the direct subschemas of a schema. definitions: also those that are only defined in it."""
    for name in (*TABLES, *(DEFINITIONS if definitions else ())):
        if isinstance(table := schema.get(name), Mapping):
            yield from ((table, key) for key in table)
    for name in ROWS:
        if isinstance(row := schema.get(name), list):
            yield from ((row, i) for i in range(len(row)))
    for name in PARTS:
        if isinstance(schema.get(name), Mapping | bool):
            yield schema, name


def map_subschemas(schema: Mapping[str, object], change: Callable[[object], object]) -> dict[str, object]:
    """A copy in which `change` has replaced each direct subschema."""
    out = dict(schema)
    for name in (*TABLES, *DEFINITIONS):
        if isinstance(table := out.get(name), Mapping):
            out[name] = {key: change(part) for key, part in table.items()}
    for name in ROWS:
        if isinstance(row := out.get(name), list):
            out[name] = [change(part) for part in row]
    for name in PARTS:
        if isinstance(out.get(name), Mapping | bool):
            out[name] = change(out[name])
    return out


def check_depth(value: object) -> None:
    """Raises GrammarError if lists and objects are nested deeper than recursive functions support."""
    layer, depth = [value], 0
    while layer := [each for each in layer if isinstance(each, Mapping | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise GrammarError(f"the schema is nested deeper than {MAX_DEPTH}")
        layer = [child for each in layer for child in (each.values() if isinstance(each, Mapping) else each)]
