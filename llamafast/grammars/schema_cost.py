"""Refuses JSON Schemas whose automata multiply: patterns that one string must match, and multiples of one number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from math import lcm
from typing import Any

from llamafast.errors import GrammarError
from llamafast.json_schema.refs import Document, reference_of
from llamafast.json_schema.simplify import without_fragile_keywords
from llamafast.json_schema.subschemas import locations
from llamafast.json_schema.types import Schema

_MAX_PRODUCT = 50_000
_MAX_MULTIPLE = 100_000  # states of the automaton of its multiples: 0.6 s of a compile thread
_MAX_DECIMALS = 9  # 32-bit numbers count units of the last decimal
_LENGTH_BREADTH = 3
_ATOM = re.compile(
    r"\\[pPxu]\{[^}]*\}|\\x..|\\u....|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[\d,]*\}|[^(){}|*+?^$]", re.DOTALL
)


def within_cost_limits(root: dict[str, Any], *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """(a schema that can be compiled, the names of dropped keywords).

    Raises GrammarError; if strict, instead of dropping anything.
    """
    try:
        check_schema_cost(root)
    except GrammarError:
        if strict:
            raise
        loose, dropped = without_fragile_keywords(root)
        check_schema_cost(loose)
        assert isinstance(loose, dict)
        return loose, dropped
    return root, []


def check_schema_cost(root: object) -> None:
    """Raises GrammarError for a schema whose automata would be too large."""
    _Walk(root).run()


class _Walk:
    """Visits each schema that the root reaches once, parts before wholes, without recursion."""

    def __init__(self, root: object) -> None:
        self._document = Document(root)
        self._breadths: dict[int, int] = {}  # the product of the patterns that a string of this schema must match
        self._multiples: dict[int, Decimal] = {}

    def run(self) -> None:
        stack = [(self._document.root, False)]
        entered: set[int] = set()
        while stack:
            schema, is_done = stack.pop()
            if not isinstance(schema, Mapping):
                continue
            if is_done:
                self._weigh(schema)
            elif id(schema) not in entered:
                entered.add(id(schema))
                stack.append((schema, True))
                stack += ((target, False) for target in self._targets(schema))
                stack += ((container[key], False) for container, key in locations(schema))

    def _weigh(self, schema: Schema) -> None:
        breadth = _own_breadth(schema)
        multiple = _decimal(schema.get("multipleOf"))
        for part in (*self._targets(schema), *_list(schema.get("allOf"))):
            breadth *= self._breadths.get(id(part), 1)
            multiple = _common(multiple, self._multiples.get(id(part)))
        for name in ("anyOf", "oneOf"):
            parts = _list(schema.get(name))
            breadth *= max((self._breadths.get(id(part), 1) for part in parts), default=1)
            found = [value for part in parts if (value := self._multiples.get(id(part))) is not None]
            multiple = _common(multiple, max(found, default=None))
        if breadth > _MAX_PRODUCT:
            raise GrammarError("too many patterns, or too large ones, must match one string at once")
        _check_multiple(multiple)
        self._breadths[id(schema)] = breadth
        if multiple is not None:
            self._multiples[id(schema)] = multiple

    def _targets(self, schema: Schema) -> list[object]:
        """The target of its reference, if it has one."""
        reference = reference_of(schema)
        return [] if reference is None else [self._document.target(reference)]


def _own_breadth(schema: Schema) -> int:
    """The number of different ways in which the patterns of one schema may continue. 1: there is no pattern."""
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        return 1
    breadth = 2 + len(set(_ATOM.findall(pattern)))
    return breadth * _LENGTH_BREADTH if schema.keys() & {"minLength", "maxLength"} else breadth


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _decimal(value: Any) -> Decimal | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return Decimal(str(value)) if is_number else None


def _common(first: Decimal | None, second: Decimal | None) -> Decimal | None:
    """The least common multiple."""
    if first is None or second is None:
        return first if second is None else second
    _check_multiple(first)
    _check_multiple(second)
    scale = 10**_MAX_DECIMALS
    common: Decimal = Decimal(lcm(int(first * scale), int(second * scale))) / scale
    return common


def _check_multiple(value: Decimal | None) -> None:
    if value is None:
        return
    exponent = value.normalize().as_tuple().exponent
    num_decimals = max(0, -exponent) if isinstance(exponent, int) else _MAX_DECIMALS + 1
    if num_decimals > _MAX_DECIMALS:
        raise GrammarError(f"multipleOf has more than {_MAX_DECIMALS} decimals")
    if value.scaleb(num_decimals) > _MAX_MULTIPLE:
        raise GrammarError(f"multipleOf is {value:f}; the limit is {_MAX_MULTIPLE} units of its last decimal")
