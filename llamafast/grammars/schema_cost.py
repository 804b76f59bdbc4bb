"""What of a JSON Schema multiplies: patterns that one string must match at once, and multiples of one number."""

from __future__ import annotations

import re
from decimal import Decimal
from math import lcm
from typing import Any

from llamafast.errors import GrammarError
from llamafast.json_schema.prepare import loosened

_MAX_PRODUCT = 50_000
_MAX_MULTIPLE = 100_000  # states of the automaton of its multiples: 0.6 s of a compile thread
_MAX_DECIMALS = 9  # 32-bit numbers count in the last one
_FORMAT_BREADTH = 16
_LENGTH_BREADTH = 3
_ATOM = re.compile(
    r"\\[pPxu]\{[^}]*\}|\\x..|\\u....|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[\d,]*\}|[^(){}|*+?^$]", re.DOTALL
)


def affordable(root: dict[str, Any], *, strict: bool) -> tuple[dict[str, Any], list[str]]:
    """A prepared schema that can be compiled, and what had to be dropped. Raises GrammarError.

    strict: rather than drop anything.
    """
    try:
        check_schema_cost(root)
    except GrammarError:
        if strict:
            raise
        loose, dropped = loosened(root)
        check_schema_cost(loose)
        assert isinstance(loose, dict)
        return loose, dropped
    return root, []


def check_schema_cost(root: object) -> None:
    """Raises GrammarError for a schema whose automata would multiply beyond all limits."""
    _Walk(root).run()


class _Walk:
    """Visits each schema once, parts before wholes, without recursion."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._breadths: dict[int, int] = {}  # of the patterns that meet in a string of this schema
        self._multiples: dict[int, Decimal] = {}

    def run(self) -> None:
        stack = [(self._root, False)]
        entered: set[int] = set()
        while stack:
            node, is_done = stack.pop()
            if is_done:
                self._weigh(node)
            elif isinstance(node, dict | list) and id(node) not in entered:
                entered.add(id(node))
                if isinstance(node, dict):
                    stack.append((node, True))
                    if (target := self._target(node)) is not None:
                        stack.append((target, False))
                stack += ((part, False) for part in (node.values() if isinstance(node, dict) else node))

    def _weigh(self, schema: dict[str, Any]) -> None:
        breadth = _own_breadth(schema)
        multiple = _decimal(schema.get("multipleOf"))
        alike = [part for part in [self._target(schema)] if part is not None]
        alike += [part for part in _list(schema.get("allOf")) if isinstance(part, dict)]
        for part in alike:
            breadth *= self._breadths.get(id(part), 1)
            multiple = _common(multiple, self._multiples.get(id(part)))
        for name in ("anyOf", "oneOf"):
            parts = [part for part in _list(schema.get(name)) if isinstance(part, dict)]
            breadth *= max((self._breadths.get(id(part), 1) for part in parts), default=1)
            found = [value for part in parts if (value := self._multiples.get(id(part))) is not None]
            multiple = _common(multiple, max(found, default=None))
        if breadth > _MAX_PRODUCT:
            raise GrammarError("too many patterns, or too large ones, must match one string at once")
        _check_multiple(multiple)
        self._breadths[id(schema)] = breadth
        if multiple is not None:
            self._multiples[id(schema)] = multiple

    def _target(self, schema: dict[str, Any]) -> dict[str, Any] | None:
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        node: Any = self._root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node if isinstance(node, dict) else None


def _own_breadth(schema: dict[str, Any]) -> int:
    """How many bytes may begin different ways on in the patterns of one schema; 1 where there is none."""
    breadth = 1
    if isinstance(schema.get("pattern"), str):
        breadth *= 2 + len(set(_ATOM.findall(schema["pattern"])))
    if isinstance(schema.get("format"), str):
        breadth *= _FORMAT_BREADTH
    if breadth > 1 and schema.keys() & {"minLength", "maxLength"}:
        breadth *= _LENGTH_BREADTH
    return breadth


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _decimal(value: Any) -> Decimal | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return Decimal(str(value)) if is_number else None


def _common(first: Decimal | None, second: Decimal | None) -> Decimal | None:
    """The least number that is a multiple of both."""
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
