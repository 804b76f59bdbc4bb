"""Rewrites a JSON Schema for llguidance.

It removes keywords without effect, and replaces parts that no finite value satisfies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamafast.errors import GrammarError
from llamafast.json_schema import numbers, types
from llamafast.json_schema.lark_regex import needs_lookaround
from llamafast.json_schema.limits import SIZES, check_limits
from llamafast.json_schema.noop_keywords import drop_noop_keywords
from llamafast.json_schema.refs import Document
from llamafast.json_schema.string_formats import STRING_FORMATS
from llamafast.json_schema.subschemas import Location, check_depth, locations, map_subschemas

_MAX_TOTAL_DEPTH = 4000  # of all reachable schemas: llguidance recurses up to this depth
_PREFIX = "#/$defs/"
# Keywords whose values may have forms that no compiler accepts.
_FRAGILE = frozenset(
    {
        "pattern",
        "patternProperties",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "format",
    }
)
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def simplified(schema: object, *, strict: bool = True) -> tuple[dict[str, Any], list[str]]:
    """(an equal schema without what llguidance would refuse or loosen needlessly, the names of dropped keywords).

    Parts that no finite value satisfies become `false`.
    strict: False: limits, multipleOf, pattern, enum and const are dropped where they cannot be enforced.
    Raises GrammarError, also if no finite value satisfies the schema.
    """
    check_depth(schema)
    if schema is True:
        return {}, []
    if schema is False:
        raise GrammarError("the schema allows nothing")
    if not isinstance(schema, Mapping):
        raise GrammarError("the schema is neither an object nor a boolean")
    # An option of llguidance, with which a client could loosen what is enforced.
    root = Document(schema).standalone({key: value for key, value in schema.items() if key != "x-guidance"})
    dropped: list[str] = []
    box: list[Any] = [root]
    found = list(_walk(root, (box, 0), strict, dropped))
    _close_what_never_ends(root, found)
    if box[0] is False:
        raise GrammarError("no finite value satisfies the schema")
    return root, list(dict.fromkeys(dropped))


def without_fragile_keywords(schema: object) -> tuple[object, list[str]]:
    """(a schema without the keywords that most often fail to compile, their names)."""
    missing: set[str] = set()

    def loose(part: object) -> object:
        if not isinstance(part, Mapping):
            return part
        missing.update(_FRAGILE & part.keys())
        return map_subschemas({name: value for name, value in part.items() if name not in _FRAGILE}, loose)

    return loose(schema), sorted(missing)


def _walk(root: dict[str, Any], top: Location, strict: bool, dropped: list[str]) -> Iterator[Location]:
    """Check and simplify all schemas that are reachable from the root. Yields their locations, parts first."""
    seen: set[int] = set()
    stack: list[tuple[Location, Iterator[Location] | None]] = [(top, None)]
    while stack:
        place, parts = stack[-1]
        schema = place[0][place[1]]
        if parts is None:
            if not isinstance(schema, dict) or id(schema) in seen:
                stack.pop()
                if isinstance(schema, bool):
                    yield place
                continue
            seen.add(id(schema))
            _settle(schema)
            check_limits(schema)
            drop_noop_keywords(schema)
            _simplify(schema)
            _fit(schema, strict, dropped)
            if len(stack) > _MAX_TOTAL_DEPTH:
                raise GrammarError(f"the references of the schema are nested deeper than {_MAX_TOTAL_DEPTH}")
            parts = _parts(schema, root)
            stack[-1] = (place, parts)
        part = next(parts, None)
        if part is None:
            yield place
            stack.pop()
        else:
            stack.append((part, None))


def _parts(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[Location]:
    """The locations of a schema's subschemas, and of the target of its reference."""
    yield from locations(schema)
    target = _target(schema, root)
    if target is not None:
        yield target


def _target(schema: Mapping[str, Any], root: dict[str, Any]) -> Location | None:
    """The target of the reference of a standalone schema."""
    reference = schema.get("$ref")
    return (root["$defs"], reference.removeprefix(_PREFIX)) if isinstance(reference, str) else None


def _settle(schema: dict[str, Any]) -> None:
    """Write counts and type names in llguidance's form: 2.0 becomes 2, and OBJECT becomes object."""
    for name in SIZES:
        if isinstance(size := schema.get(name), float) and size.is_integer():
            schema[name] = int(size)
    named = schema.get("type")
    if isinstance(named, str):
        schema["type"] = named.lower()
    elif isinstance(named, list):
        schema["type"] = [each.lower() if isinstance(each, str) else each for each in named]


def _simplify(schema: dict[str, Any]) -> None:
    if "format" in schema:
        pattern = STRING_FORMATS.get(str(schema.pop("format")))
        if pattern is not None and "pattern" not in schema:
            schema["pattern"] = f"^({pattern})$"
        elif pattern is not None:
            schema["allOf"] = [*schema.get("allOf", []), {"pattern": f"^({pattern})$"}]
    names = schema.get("propertyNames")
    if isinstance(names, dict) and not schema.keys() & {"properties", "patternProperties"}:
        values = schema.get("additionalProperties", True)
        pattern, enum = names.get("pattern"), names.get("enum")
        if isinstance(pattern, str) and names.keys() <= {"type", "pattern"}:
            schema["patternProperties"] = {pattern: values}
        elif isinstance(enum, list) and names.keys() <= {"type", "enum"} and all(isinstance(e, str) for e in enum):
            schema["properties"] = dict.fromkeys(enum, values)
        else:
            return
        schema["additionalProperties"] = False
        del schema["propertyNames"]


def _fit(schema: dict[str, Any], strict: bool, dropped: list[str]) -> None:
    """Move the limits of one schema to values that llguidance accepts. Drop others, and patterns that it does not
    accept.
    """
    given, kinds = [name for name in _BOUNDS if name in schema], types.declared(schema)
    try:
        has_numbers = bool(given and kinds & types.NUMBERS)
        fitted = numbers.fitted_bounds(schema, is_integer="number" not in kinds) if has_numbers else {}
    except GrammarError:
        if strict:
            raise
        fitted = {}
        dropped += given
    for name in given:
        del schema[name]
    schema.update(fitted)
    for name in ("enum", "const"):
        values = schema.get(name) if name == "enum" else [schema.get(name)]
        wrong = [value for value in values if not numbers.is_exact(value)] if isinstance(values, list) else []
        if wrong:
            _drop(schema, name, f"the number {wrong[0]} has too many digits", strict, dropped)
    pattern, step = schema.get("pattern"), schema.get("multipleOf", 1)
    if isinstance(pattern, str) and needs_lookaround(pattern):
        _drop(schema, "pattern", f"{pattern!r} needs lookarounds or references", strict, dropped)
    if not numbers.is_number(step) or step <= 0:
        _drop(schema, "multipleOf", f"{step!r} is not above 0", strict, dropped)


def _drop(schema: dict[str, Any], name: str, why: str, strict: bool, dropped: list[str]) -> None:
    if strict:
        raise GrammarError(f"{name} cannot be enforced: {why}")
    del schema[name]
    dropped.append(name)


def _close_what_never_ends(root: dict[str, Any], found: list[Location]) -> None:
    """Replace each schema that no finite value satisfies with `false`."""
    finite: set[int] = set()
    num_before = -1
    while len(finite) != num_before:
        num_before = len(finite)
        for container, key in found:
            schema = container[key]
            if id(schema) not in finite and isinstance(schema, dict) and _is_finite(schema, root, finite):
                finite.add(id(schema))
    for container, key in found:
        if isinstance(container[key], dict) and id(container[key]) not in finite:
            container[key] = False


def _is_finite(schema: dict[str, Any], root: dict[str, Any], finite: set[int]) -> bool:
    """Whether a finite value may satisfy the schema. finite: the ids of the schemas for which that is known."""

    def is_known(part: Any) -> bool:
        return part is not False if not isinstance(part, dict) else id(part) in finite

    def all_known(parts: Any) -> bool:
        return not isinstance(parts, list) or all(is_known(part) for part in parts)

    target = _target(schema, root)
    if target is not None and not is_known(target[0][target[1]]):
        return False
    if not all_known(schema.get("allOf")):
        return False
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list) and not any(is_known(part) for part in schema[name]):
            return False
    named = schema.get("type", list(types.SCALARS | types.STRING))
    kinds = {name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)}
    if kinds & (types.SCALARS | types.STRING) or "enum" in schema or "const" in schema:
        return True
    return _is_finite_object(schema, kinds, is_known) or _is_finite_array(schema, kinds, is_known, all_known)


def _is_finite_object(schema: dict[str, Any], kinds: set[str], is_known: Any) -> bool:
    if "object" not in kinds:
        return False
    table, required = types.as_schema(schema.get("properties")), schema.get("required")
    names = required if isinstance(required, list) else []
    return all(is_known(table.get(name, True)) for name in names if isinstance(name, str))


def _is_finite_array(schema: dict[str, Any], kinds: set[str], is_known: Any, all_known: Any) -> bool:
    num_items = schema.get("minItems")
    if "array" not in kinds:
        return "object" not in kinds  # llguidance refuses unknown types
    if not isinstance(num_items, int) or num_items <= 0:
        return True
    first, rest = schema.get("prefixItems", []), schema.get("items", True)
    if isinstance(rest, list):
        first, rest = rest, schema.get("additionalItems", True)
    first = first if isinstance(first, list) else []
    return bool(all_known(first[:num_items])) and (num_items <= len(first) or bool(is_known(rest)))
