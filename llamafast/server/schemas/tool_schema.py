"""Checks that a tool's parameters are a JSON Schema, before any other code reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llamafast.errors import InvalidRequestError
from llamafast.json_schema.subschemas import DEFINITIONS, MAX_DEPTH, PARTS, ROWS, TABLES
from llamafast.json_schema.types import ALL

_SEVERAL = tuple(name for name in ROWS if name not in PARTS)
_NAMED = (*TABLES, *DEFINITIONS)
_STRINGS = ("pattern", "$ref", "format")


def check_parameters(schema: Mapping[str, object] | None, param: str) -> None:
    """Refuse parameters with a keyword of a wrong type.

    schema: the parameters of a function. None: the function declares no arguments.
    param: the client's field, for the error. The message contains the place inside the field.
    Raises InvalidRequestError with OpenAI's code. Source: JSON Schema, drafts 4 to 2020-12.
    """
    if schema is None:
        return
    declared = schema.get("type", "object")
    if declared != "object" and declared != ["object"]:
        raise _fault(param, "", "the arguments of a function are an object: 'type' must be 'object'")
    waiting: list[tuple[object, str, int]] = [(schema, "", 0)]
    while waiting:
        part, place, depth = waiting.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise _fault(param, place, "a schema must be an object or a boolean")
        if depth > MAX_DEPTH:
            raise _fault(param, "", f"the schema is nested deeper than {MAX_DEPTH}")
        wrong = _fault_in(part)
        if wrong is not None:
            raise _fault(param, place, wrong)
        waiting += ((inner, place + step, depth + 1) for inner, step in _parts(part))


def _fault_in(schema: Mapping[str, object]) -> str | None:
    """The first error in the keywords of one schema; None if they are valid."""
    given = schema.get("type", [])
    types = given if isinstance(given, list) else [given]
    if any(not isinstance(name, str) or name not in ALL for name in types):
        return f"'type' must be one of {', '.join(sorted(ALL))}"
    required = schema.get("required", [])
    # Draft 3 allows a boolean, and some tools still use it.
    if not isinstance(required, bool) and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        return "'required' must be a list of names"
    if not isinstance(schema.get("enum", []), list):
        return "'enum' must be a list"
    for name in _SEVERAL:
        if not isinstance(schema.get(name, []), list):
            return f"'{name}' must be a list of schemas"
    for name in _NAMED:
        if not isinstance(schema.get(name, {}), dict):
            return f"'{name}' must be an object of schemas"
    for name in _STRINGS:
        if not isinstance(schema.get(name, ""), str):
            return f"'{name}' must be a string"
    return None


def _parts(schema: Mapping[str, object]) -> Iterator[tuple[object, str]]:
    for name in PARTS:
        if name in schema:
            part = schema[name]
            # Draft 4: `items` may be a list.
            yield from ((item, f".{name}[{i}]") for i, item in enumerate(part if isinstance(part, list) else ()))
            if not isinstance(part, list):
                yield part, f".{name}"
    for name in _SEVERAL:
        parts = schema.get(name)
        yield from ((part, f".{name}[{i}]") for i, part in enumerate(parts if isinstance(parts, list) else ()))
    for name in _NAMED:
        named = schema.get(name)
        yield from ((part, f".{name}.{key}") for key, part in (named.items() if isinstance(named, dict) else ()))


def _fault(param: str, place: str, reason: str) -> InvalidRequestError:
    message = f"{param}{place}: {reason}"
    return InvalidRequestError(message[:1000], param=param, code="invalid_function_parameters")
