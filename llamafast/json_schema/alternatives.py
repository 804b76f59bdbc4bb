"""Splits a JSON Schema into alternatives: a value that satisfies the schema matches one of them.

Parsers read bare text by these records, and grammars constrain models by them, so both agree on what a value is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TypeAlias

from llamafast.errors import GrammarError
from llamafast.json_schema import numbers, types
from llamafast.json_schema.lark_regex import needs_lookaround
from llamafast.json_schema.noop_keywords import drop_noop_keywords
from llamafast.json_schema.numbers import NumberRange
from llamafast.json_schema.refs import Document, reference_of
from llamafast.json_schema.types import Schema, as_schema

_Reached: TypeAlias = tuple[object, tuple[str, ...]]  # a schema, and the references that lead to it

_MAX_ALTERNATIVES = 128
_MAX_STEPS = 64  # nested references and combinations
# Keywords about a whole value that no grammar enforces. "then" and "else" have no effect without "if".
_UNENFORCED = ("not", "if", "$dynamicRef", "$recursiveRef")
_UNENFORCED_FOR_OBJECTS = (
    "patternProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
)
_OBJECT_KEYS = frozenset(
    {
        *_UNENFORCED_FOR_OBJECTS,
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties", "propertyNames"),
    }
)
_ARRAY_KEYS = frozenset(
    {
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "contains"),
        *("uniqueItems", "unevaluatedItems"),
    }
)


@dataclass(frozen=True)
class StringConstraints:
    """What a schema says about strings.

    values: the allowed strings. None: any.
    patterns, formats: regular expressions and formats. A string must match all of them.
    min_length, max_length: in characters. None: no limit.
    """

    values: tuple[str, ...] | None
    patterns: tuple[str, ...]
    formats: tuple[str, ...]
    min_length: int
    max_length: int | None

    @property
    def is_free(self) -> bool:
        """Whether any string is allowed."""
        return self == StringConstraints(None, (), (), 0, None)

    @property
    def lookaround_keywords(self) -> list[str]:
        """The keyword "pattern", if a pattern needs lookarounds or backreferences."""
        return ["pattern"] if any(needs_lookaround(pattern) for pattern in self.patterns) else []


@dataclass(frozen=True)
class Property:
    """A member of an object.

    name: the key.
    schemas: the value must satisfy all of them.
    is_required: every object has this member.
    is_declared: `properties` names it. False: only `required` does.
    """

    name: str
    schemas: tuple[object, ...]
    is_required: bool
    is_declared: bool

    @property
    def schema(self) -> object:
        """All of them as one schema."""
        return self.schemas[0] if len(self.schemas) == 1 else {"allOf": list(self.schemas)}


@dataclass(frozen=True)
class Alternative:
    """One alternative. A value must satisfy all its parts.

    parts: schemas without references and combinations.
    types: the allowed types. "number" comes with "integer", which it includes.
    is_overlapping: a `oneOf` has another alternative that the same value might match.
    """

    parts: tuple[Schema, ...]
    types: frozenset[str]
    is_overlapping: bool = False

    @cached_property
    def values(self) -> tuple[object, ...] | None:
        """The values that `enum` and `const` list and the other keywords allow. None: nothing is listed."""
        rows = [each for part in self.parts for each in _rows(part)]
        if not rows:
            return None
        return tuple(
            value
            for value in rows[0]
            if all(any(types.is_equal(value, other) for other in row) for row in rows[1:]) and self._may_be(value)
        )

    @cached_property
    def strings(self) -> StringConstraints:
        """What it says about strings."""
        low, high = self.bounds("Length")
        patterns, formats = self._texts("pattern"), self._texts("format")
        values = None if self.values is None else tuple(value for value in self.values if isinstance(value, str))
        return StringConstraints(values, patterns, formats, low, high)

    @cached_property
    def numbers(self) -> NumberRange:
        """What it says about numbers."""
        return reduce(numbers.intersection, map(numbers.range_of, self.parts), NumberRange())

    @property
    def unenforced(self) -> list[str]:
        """The keywords that no grammar of bare text enforces."""
        return ["oneOf"] * self.is_overlapping + [name for name in _UNENFORCED if self._has(name)]

    def is_constrained(self, kinds: frozenset[str]) -> bool:
        """Whether arrays and objects of these types are constrained."""
        keys = {*(_ARRAY_KEYS if "array" in kinds else ()), *(_OBJECT_KEYS if "object" in kinds else ())}
        return self.values is not None or bool(self.unenforced) or any(keys & part.keys() for part in self.parts)

    def allows(self, value: object) -> bool:
        """Whether a value other than a string is allowed. Arrays and objects are only compared by type."""
        if self.values is not None:
            return any(types.is_equal(value, other) for other in self.values)
        return self._may_be(value)

    def bounds(self, of: str) -> tuple[int, int | None]:
        """The limits of "Length", "Items" or "Properties", as (minimum, maximum). None: no maximum."""
        least = [int(low) for part in self.parts if numbers.is_number(low := part.get(f"min{of}"))]
        most = [int(high) for part in self.parts if numbers.is_number(high := part.get(f"max{of}"))]
        return max(least, default=0), min(most, default=None)

    @cached_property
    def properties(self) -> tuple[Property, ...]:
        """The named members of an object, in their order. Members that only `required` names come last."""
        tables = [as_schema(part.get("properties")) for part in self.parts]
        required = dict.fromkeys(name for part in self.parts for name in _names(part))
        declared = dict.fromkeys(name for table in tables for name in table)
        said: dict[str, list[object]] = {name: [] for name in (*declared, *required)}
        for part, table in zip(self.parts, tables, strict=True):
            other = part.get("additionalProperties") if "patternProperties" not in part else None
            for name in table if other is None else said:
                if (schema := table.get(name, other)) is not None:
                    said[name].append(schema)
        found = [
            Property(name, tuple(schemas) or (True,), name in required, name in declared)
            for name, schemas in said.items()
        ]
        return tuple(each for each in found if False not in each.schemas or each.is_required)

    @property
    def others(self) -> object:
        """The schema of an object's unnamed members."""
        said = [part["additionalProperties"] for part in self.parts if "additionalProperties" in part]
        if False in said:
            return False
        return True if not said else said[0] if len(said) == 1 else {"allOf": said}

    @property
    def names(self) -> Schema:
        """The schema of an object's keys."""
        said = [as_schema(part["propertyNames"]) for part in self.parts if "propertyNames" in part]
        return {} if not said else said[0] if len(said) == 1 else {"allOf": said}

    @property
    def items(self) -> object:
        """The schema of an array's items."""
        said = [part["items"] for part in self.parts if "items" in part]
        return True if not said else said[0] if len(said) == 1 else {"allOf": said}

    @property
    def unenforced_for_objects(self) -> list[str]:
        """The keywords that a grammar of an object's properties, one after the other, does not enforce."""
        least, most = self.bounds("Properties")
        found = [*self.unenforced, *(name for name in _UNENFORCED_FOR_OBJECTS if self._has(name))]
        if self.properties:
            found += ["minProperties"] if least > sum(each.is_required for each in self.properties) else []
            found += ["maxProperties"] if most is not None and most < len(self.properties) else []
            found += ["propertyNames"] if self._has("propertyNames") else []
        return found

    def _texts(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for part in self.parts if isinstance(text := part.get(name), str)))

    def _has(self, name: str) -> bool:
        return any(name in part for part in self.parts)

    def _may_be(self, value: object) -> bool:
        """Whether types and limits allow a value of an enum."""
        if not types.kinds(value) & self.types:
            return False
        if isinstance(value, str):
            low, high = self.bounds("Length")
            return low <= len(value) and (high is None or len(value) <= high)
        return isinstance(value, bool) or not isinstance(value, (int, float)) or self.numbers.holds(value)


def alternatives(schema: object, document: Document) -> list[Alternative]:
    """The alternatives of a schema. Empty: no value satisfies it.

    document: the schema in which references are resolved.
    Raises GrammarError if there are too many, or if a reference is not valid or never ends.
    """
    return list(_Expansion(document).of(schema, ()))


class _Expansion:
    """Computes the alternatives of schemas in one document. References and combinations are followed up to a limit."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._num_steps = 0

    def of(self, schema: object, around: tuple[str, ...]) -> Iterator[Alternative]:
        """The alternatives of one schema. around: the references that lead to it."""
        parts, choices, waiting = list[Schema](), list[tuple[str, list[_Reached]]](), [(schema, around)]
        while waiting:
            each, refs = waiting.pop(0)
            if each is False:
                return
            if not isinstance(each, Mapping):
                continue
            reference = reference_of(each)
            if reference is not None:
                if reference in refs or len(refs) == _MAX_STEPS:
                    raise GrammarError("the references of the schema never end")
                waiting.insert(0, (self._document.target(reference), (*refs, reference)))
            each = dict(each)
            drop_noop_keywords(each)
            rows = {name: row for name in ("allOf", "anyOf", "oneOf") if isinstance(row := each.get(name), list)}
            waiting += ((other, refs) for other in rows.get("allOf", ()))
            choices += (
                (name, [(option, refs) for option in rows[name]]) for name in ("anyOf", "oneOf") if name in rows
            )
            parts.append({key: value for key, value in each.items() if key != "$ref" and key not in rows})
        found = [Alternative(tuple(part for part in parts if part), types.ALL)]
        for name, options in choices:
            found = self._product(found, [list(self.of(*option)) for option in options], name == "oneOf")
        for each in found:
            left = types.ALL.intersection(*map(types.declared, each.parts))
            alternative = Alternative(each.parts, left, each.is_overlapping)
            if alternative.values is not None:
                left &= {kind for value in alternative.values for kind in types.kinds(value)}
                alternative = Alternative(each.parts, left, each.is_overlapping)
            low, high = alternative.bounds("Length")
            if high is not None and low > high:
                left -= types.STRING
                alternative = Alternative(each.parts, left, each.is_overlapping)
            if left:
                yield alternative

    def _product(
        self, found: Sequence[Alternative], options: Sequence[Sequence[Alternative]], is_one: bool
    ) -> list[Alternative]:
        self._num_steps += len(found) * sum(map(len, options))
        if self._num_steps > _MAX_ALTERNATIVES * 4 or len(found) * sum(map(len, options)) > _MAX_ALTERNATIVES:
            raise GrammarError(f"the schema has more than {_MAX_ALTERNATIVES} combinations")
        out = list[Alternative]()
        for i, row in enumerate(options):
            rest = [other for j, several in enumerate(options) if j != i for other in several]
            for option in row:
                overlaps = is_one and any(not _are_disjoint(option, other, self) for other in rest)
                out += (
                    Alternative(
                        (*base.parts, *option.parts),
                        base.types,
                        base.is_overlapping or option.is_overlapping or overlaps,
                    )
                    for base in found
                )
        return out

    def values_of(self, each: Property) -> list[object] | None:
        """The values that a property may have by `enum` or `const`, without combinations. None: any value."""
        waiting, rows = list(each.schemas), list[list[object]]()
        for _ in range(_MAX_STEPS):
            if not waiting:
                break
            schema = as_schema(waiting.pop())
            reference, others = reference_of(schema), schema.get("allOf")
            waiting += [self._document.target(reference)] if reference is not None else []
            waiting += others if isinstance(others, list) else []
            rows += _rows(schema)
        return min(rows, key=len) if rows else None


def _are_disjoint(one: Alternative, other: Alternative, expansion: _Expansion) -> bool:
    """Whether it is certain that no value matches both."""
    common = one.types & other.types
    if not common:
        return True
    if one.values is not None and other.values is not None:
        return not any(types.is_equal(value, each) for value in one.values for each in other.values)
    if common != {"object"}:
        return False
    return any(_tells_apart(each, other, expansion) for each in one.properties if each.is_required) or any(
        _tells_apart(each, one, expansion) for each in other.properties if each.is_required
    )


def _tells_apart(each: Property, other: Alternative, expansion: _Expansion) -> bool:
    """Whether another alternative excludes a required property of this one."""
    match = next((its for its in other.properties if its.name == each.name), None)
    if match is None:
        return other.others is False and not any("patternProperties" in part for part in other.parts)
    if False in match.schemas:
        return True
    first, second = expansion.values_of(each), expansion.values_of(match)
    if first is None or second is None or not match.is_required:
        return False
    return not any(types.is_equal(value, its) for value in first for its in second)


def _rows(schema: Schema) -> Iterator[list[object]]:
    """The values that each keyword of the schema lists."""
    enum = schema.get("enum")
    if isinstance(enum, list):
        yield enum
    if "const" in schema:
        yield [schema["const"]]


def _names(schema: Schema) -> list[str]:
    required = schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
