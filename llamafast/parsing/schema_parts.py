"""A JSON Schema taken apart: what its references and combinations come to, as far as a format has to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TypeAlias

Schema: TypeAlias = Mapping[str, object]

_MAX_BRANCHES = 32
_MAX_DEPTH = 100
_MAX_STEPS = 64  # references that may lead on to others
_ROOT = "_root"  # the definition of the whole schema
_DEFINITIONS = ("$defs", "definitions")
# Where properties are written one by one, these are out of reach.
_REFUSED = ("patternProperties", "dependentRequired", "dependentSchemas", "dependencies", "not", "if")
ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})


def as_schema(value: object) -> Schema:
    """A schema that is an object; {} for all else, `true` among it."""
    return value if isinstance(value, Mapping) else {}


def is_too_deep(schema: object) -> bool:
    """Whether a schema is nested deeper than whoever walks it would go."""
    layer = [schema]
    for _ in range(_MAX_DEPTH):
        layer = [
            child
            for value in layer
            if isinstance(value, Mapping | list)
            for child in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not layer:
            return False
    return True


def resolved(schema: Schema, root: Schema) -> dict[str, object]:
    """An equal schema without `$ref` and `allOf` at its top. Raises ValueError for a reference that leads nowhere."""
    out: dict[str, object] = {}
    parts = [schema]
    for _ in range(_MAX_STEPS):
        if not parts:
            return out
        part = dict(parts.pop())
        reference, others = part.pop("$ref", None), part.pop("allOf", None)
        if isinstance(reference, str):
            parts.append(_target(reference, root))
        parts += [as_schema(other) for other in others] if isinstance(others, list) else []
        out = merged(out, part)
    raise ValueError("references that never end")


def merged(one: Schema, other: Schema) -> dict[str, object]:
    """A schema that holds what both say."""
    out = {**one, **other}
    first, second = one.get("properties"), other.get("properties")
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        both = {name: {"allOf": [first[name], second[name]]} for name in first if name in second}
        out["properties"] = {**first, **second, **both}
    required = (one.get("required"), other.get("required"))
    if all(isinstance(names, list) for names in required):
        out["required"] = list(dict.fromkeys(name for names in required if isinstance(names, list) for name in names))
    return out


def branches(schema: Schema, root: Schema) -> list[dict[str, object]]:
    """The schemas, without anyOf and oneOf at their top, of which one holds. Raises ValueError if they are too many."""
    found = list(islice(_branches(resolved(schema, root), root), _MAX_BRANCHES + 1))
    if len(found) > _MAX_BRANCHES:
        raise ValueError(f"more than {_MAX_BRANCHES} combinations")
    return found


def types(schema: Schema) -> frozenset[str]:
    """The types that a schema without references allows by `type`, or by its values."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return frozenset(_type_of(value) for value in values)
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    return ALL_TYPES


def values(schema: Schema) -> list[object] | None:
    """The values that `enum` or `const` leave; None: they leave it open."""
    if "const" in schema:
        return [schema["const"]]
    enum = schema.get("enum")
    return list(enum) if isinstance(enum, list) else None


def members(schema: Schema, strict: bool) -> list[tuple[str, Schema, bool]]:
    """Name, schema and whether it is required of each property of an object, in their order; none: it declares none.

    Raises ValueError if it is no object, and if it is strict and says more than its properties can hold it to.
    """
    if "object" not in types(schema):
        raise ValueError("arguments are an object")
    refused = unheld(schema)
    if refused and strict:
        raise ValueError(f"the keyword {refused[0]!r}")
    table, names = _properties(schema)
    return [(name, as_schema(value), name in names) for name, value in table.items() if value is not False]


def unheld(schema: Schema) -> list[str]:
    """The keywords of an object's schema to which its properties, written one by one, cannot hold it."""
    table, names = _properties(schema)
    least, most = bounds(schema, "Properties")
    found = [name for name in _REFUSED if name in schema]
    if table:
        found += ["minProperties"] if least > len(names) else []
        found += ["maxProperties"] if most is not None and most < len(table) else []
    return found


def bounds(schema: Schema, of: str) -> tuple[int, int | None]:
    """How many Items or Properties there may be, (least, most); most None: any number."""
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    return (least if isinstance(least, int) else 0), (most if isinstance(most, int) else None)


def standalone(schema: Schema, root: Schema) -> dict[str, object]:
    """A schema that means the same without its root.

    What it takes from elsewhere than the root's definitions stays there, the root being one of them itself.
    """
    definitions = {name: root[name] for name in _DEFINITIONS if name in root}
    if _stays([definitions, schema]):
        return {**definitions, **schema}
    rest = {name: value for name, value in root.items() if name not in _DEFINITIONS}
    whole = {**definitions, "$defs": {**as_schema(root.get("$defs")), _ROOT: rest}}
    return _moved({**schema, **whole})


def _stays(value: object) -> bool:
    """Whether all references lead to the root's definitions."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            reference = part.get("$ref")
            if isinstance(reference, str) and _is_elsewhere(reference):
                return False
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return True


def _moved(schema: Schema) -> dict[str, object]:
    """The same with references to the root's new place."""
    out = {name: _moved_part(part) for name, part in schema.items()}
    reference = out.get("$ref")
    if isinstance(reference, str) and _is_elsewhere(reference):
        out["$ref"] = f"#/$defs/{_ROOT}{reference[1:]}"
    return out


def _moved_part(part: object) -> object:
    if isinstance(part, list):
        return [_moved_part(each) for each in part]
    return _moved(part) if isinstance(part, Mapping) else part


def _is_elsewhere(reference: str) -> bool:
    return reference.startswith("#") and reference.split("/")[1:2] not in ([name] for name in _DEFINITIONS)


def _properties(schema: Schema) -> tuple[Schema, list[str]]:
    """All properties that are named, and the names of those that are required."""
    table, required = as_schema(schema.get("properties")), schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {**table, **{name: {} for name in names if name not in table}}, names


def _branches(schema: dict[str, object], root: Schema) -> Iterator[dict[str, object]]:
    for name in ("anyOf", "oneOf"):
        options = schema.get(name)
        if isinstance(options, list):
            rest = {key: value for key, value in schema.items() if key != name}
            for option in options:
                yield from _branches(merged(rest, resolved(as_schema(option), root)), root)
            return
    yield schema


def _target(reference: str, root: Schema) -> Schema:
    target: object = root
    if not reference.startswith("#"):
        raise ValueError(f"the reference {reference!r} leads out of the schema")
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, Mapping) and name in target:
            target = target[name]
        else:
            raise ValueError(f"the reference {reference!r} leads nowhere")
    return as_schema(target)


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")
