"""What is settled about a JSON Schema before llguidance sees it: caps, keywords that do nothing, parts without end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llamafast.errors import GrammarError
from llamafast.grammars.regex import check_regex

Schema = dict[str, Any]
_Place = tuple[Any, Any]  # container and key of a schema

_MAX_DEPTH = 100  # of the text
_MAX_TOTAL_DEPTH = 4000  # of all schemas that references reach: llguidance descends that far at worst
_MAX_PROPERTIES = 400  # of one object: more rows than the parser takes
_MAX_PATTERN_PROPERTIES = 32  # compared in pairs
_MAX_SIZE = 1_000_000

# Constraints of older drafts and of validators, which llguidance takes for notes.
_REFUSED = ("divisibleBy", "extends", "disallow", "formatMinimum", "formatMaximum", "$merge", "$patch")
_SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_SCALARS = frozenset({"string", "number", "integer", "boolean", "null"})
_IDLE: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "not": (False,),
}
# Without leap seconds, small letters and more than microseconds, which RFC 3339 allows and many parsers refuse.
_TIME = r"[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"
# Only leap years have a 29th of February, and no calendar has the year 0.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = f"^({_YEAR}-((0[13-9]|1[0-2])-[0-3][0-9]|02-([01][0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
_FORMAT_PATTERNS = {"time": "^" + _TIME, "date": f"{_DATE}$", "date-time": f"{_DATE}T{_TIME}"}


def prepare_schema(text: str) -> str:
    """The text of an equal schema, without what would be refused or loosened for no reason. Raises GrammarError.

    A schema that no finite value satisfies is refused; parts that none satisfies become `false`.
    """
    root = _parse(text)
    if root is True:
        return "{}"
    if root is False:
        raise GrammarError("the schema allows nothing")
    if not isinstance(root, dict):
        raise GrammarError("the schema is neither an object nor a boolean")
    root.pop("x-guidance", None)  # llguidance's own options: a client may not loosen what is enforced
    box: list[Any] = [root]
    places = list(_walk(root, (box, 0)))
    _close_what_never_ends(root, places)
    if box[0] is False:
        raise GrammarError("no finite value satisfies the schema")
    return json.dumps(root)


def _parse(text: str) -> Any:
    def refuse(name: str) -> None:
        raise GrammarError(f"the schema is not JSON: {name}")

    try:
        root = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise GrammarError(f"the schema is nested deeper than {_MAX_DEPTH}") from None
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    layer, depth = [root] if isinstance(root, dict | list) else [], 0
    while layer:
        depth += 1
        if depth > _MAX_DEPTH:
            raise GrammarError(f"the schema is nested deeper than {_MAX_DEPTH}")
        layer = [
            child
            for value in layer
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
    return root


def _walk(root: Schema, top: _Place) -> Iterator[_Place]:
    """Check and simplify all schemas that the root reaches by parts and references; their places, parts first."""
    seen: set[int] = set()
    total_depth = 0
    stack: list[tuple[_Place, Iterator[_Place] | None]] = [(top, None)]
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
            _check(schema)
            _simplify(schema)
            total_depth = max(total_depth, len(stack))
            if total_depth > _MAX_TOTAL_DEPTH:
                raise GrammarError(f"the references of the schema lead deeper than {_MAX_TOTAL_DEPTH}")
            parts = _parts(schema, root)
            stack[-1] = (place, parts)
        part = next(parts, None)
        if part is None:
            yield place
            stack.pop()
        else:
            stack.append((part, None))


def _parts(schema: Schema, root: Schema) -> Iterator[_Place]:
    """The places of the schemas that stand in a schema, or that it refers to."""
    for name in ("properties", "patternProperties", "dependentSchemas"):
        if isinstance(table := schema.get(name), dict):
            yield from ((table, key) for key in table)
    for name in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
        if isinstance(row := schema.get(name), list):
            yield from ((row, i) for i in range(len(row)))
    for name in ("items", "additionalItems", "additionalProperties", "contains", "not", "propertyNames"):
        if isinstance(schema.get(name), dict | bool):
            yield schema, name
    target = _target(schema, root)
    if target is not None:
        yield target


def _target(schema: Schema, root: Schema) -> _Place | None:
    """Where a reference within the document points; None if there is none, or it is not of that kind."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return ([root], 0) if reference == "#" else None
    container: Any = [root]
    key: Any = 0
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        container = container[key]
        if isinstance(container, list) and name.isdigit() and int(name) < len(container):
            key = int(name)
        elif isinstance(container, dict) and name in container:
            key = name
        else:
            return None
    return container, key


def _check(schema: Schema) -> None:
    for name in _REFUSED:
        if name in schema:
            raise GrammarError(f"the keyword {name!r} cannot be enforced")
    for name in _SIZES:
        if isinstance(schema.get(name), int | float) and schema[name] > _MAX_SIZE:
            raise GrammarError(f"{name} is {schema[name]}; the limit is {_MAX_SIZE}")
    for name, limit in (("properties", _MAX_PROPERTIES), ("patternProperties", _MAX_PATTERN_PROPERTIES)):
        if isinstance(schema.get(name), dict) and len(schema[name]) > limit:
            raise GrammarError(f"{len(schema[name])} {name} of one object; the limit is {limit}")
    if isinstance(schema.get("pattern"), str):
        check_regex(schema["pattern"])
    if isinstance(schema.get("patternProperties"), dict):
        for pattern in schema["patternProperties"]:
            check_regex(pattern)


def _simplify(schema: Schema) -> None:
    for name, values in _IDLE.items():
        if name in schema and any(schema[name] == value and type(schema[name]) is type(value) for value in values):
            del schema[name]
    if "if" not in schema:
        schema.pop("then", None)
        schema.pop("else", None)
    elif "then" not in schema and "else" not in schema:
        del schema["if"]
    text_format = schema.get("format")
    if isinstance(text_format, str) and text_format in _FORMAT_PATTERNS and "pattern" not in schema:
        schema["pattern"] = _FORMAT_PATTERNS[text_format]
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


def _close_what_never_ends(root: Schema, places: list[_Place]) -> None:
    """Put `false` in the place of each schema that no finite value satisfies."""
    finite: set[int] = set()
    num_before = -1
    while len(finite) != num_before:
        num_before = len(finite)
        for container, key in places:
            schema = container[key]
            if id(schema) not in finite and isinstance(schema, dict) and _is_finite(schema, root, finite):
                finite.add(id(schema))
    for container, key in places:
        if isinstance(container[key], dict) and id(container[key]) not in finite:
            container[key] = False


def _is_finite(schema: Schema, root: Schema, finite: set[int]) -> bool:
    """Whether a finite value may satisfy it, given the schemas of which that is known."""

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
    declared = schema.get("type", list(_SCALARS))
    types = {name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str)}
    if types & _SCALARS or "enum" in schema or "const" in schema:
        return True
    if "object" in types:
        required = schema.get("required")
        properties = schema.get("properties")
        table = properties if isinstance(properties, dict) else {}
        names = required if isinstance(required, list) else []
        if all(is_known(table.get(name, True)) for name in names if isinstance(name, str)):
            return True
    num_items = schema.get("minItems")
    if "array" not in types:
        return "object" not in types  # an unknown type is refused by llguidance
    if not isinstance(num_items, int) or num_items <= 0:
        return True
    first, rest = schema.get("prefixItems", []), schema.get("items", True)
    if isinstance(rest, list):
        first, rest = rest, schema.get("additionalItems", True)
    first = first if isinstance(first, list) else []
    return all_known(first[:num_items]) and (num_items <= len(first) or is_known(rest))
