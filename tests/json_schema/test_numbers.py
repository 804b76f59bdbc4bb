"""Ranges of numbers: their members, their patterns, and the limits for llguidance."""

from __future__ import annotations

import random
import re

import pytest

from llamafast.errors import GrammarError
from llamafast.json_schema.numbers import NumberRange, fitted_bounds, intersection, is_exact, range_of


def some_range(rng: random.Random) -> dict[str, object]:
    schema: dict[str, object] = {}
    if rng.random() < 0.8:
        schema[rng.choice(["minimum", "exclusiveMinimum"])] = rng.randint(-1200, 1200) / rng.choice([1, 2, 8, 100])
    if rng.random() < 0.8:
        schema[rng.choice(["maximum", "exclusiveMaximum"])] = rng.randint(-1200, 1200) / rng.choice([1, 10, 4])
    return schema


def test_range_patterns_match_the_numbers_in_it() -> None:
    rng = random.Random(0)
    for schema in (some_range(rng) for _ in range(300)):
        numbers = range_of(schema)
        patterns = list(map(re.compile, numbers.patterns(is_integer=False)))
        for value in (*schema.values(), *(round(rng.uniform(-1300, 1300), rng.randint(1, 3)) for _ in range(20))):
            assert all(pattern.fullmatch(str(value)) for pattern in patterns) == numbers.holds(value), (schema, value)


def test_range_patterns_match_the_integers_in_it() -> None:
    rng = random.Random(1)
    for _ in range(300):
        low, size = rng.randint(-1200, 1200), rng.choice([0, 1, 9, 10, 120, 5000])
        numbers = range_of({"minimum": low - rng.choice([0, 0.5]), "maximum": low + size})
        [pattern] = numbers.patterns(is_integer=True)
        for value in (low - 1, low, low + size, low + size + 1, *(rng.randint(-9000, 9000) for _ in range(20))):
            assert bool(re.fullmatch(pattern, str(value))) == numbers.holds(value), (low, size, value)


def test_range_without_an_integer_is_refused() -> None:
    with pytest.raises(GrammarError, match="no number"):
        range_of({"exclusiveMinimum": 1, "exclusiveMaximum": 2}).patterns(is_integer=True)


@pytest.mark.parametrize(
    ("one", "other", "value", "expected"),
    [
        ({"minimum": 3}, {"exclusiveMinimum": 3}, 3, False),
        ({"maximum": 3}, {"exclusiveMaximum": 3}, 3, False),
        ({"minimum": 3}, {"maximum": 5}, 4, True),
        ({"multipleOf": 2}, {"multipleOf": 3}, 6, True),
        ({"multipleOf": 2}, {"multipleOf": 3}, 4, False),
        ({"multipleOf": 0.1}, {}, 0.3, True),
        ({"minimum": 3, "exclusiveMinimum": True}, {}, 3, False),
        ({"minimum": 3, "exclusiveMinimum": False}, {}, 3, True),
    ],
)
def test_ranges_together_hold_what_both_do(one, other, value, expected) -> None:
    assert intersection(range_of(one), range_of(other)).holds(value) is expected


@pytest.mark.parametrize(
    ("schema", "is_integer", "expected"),
    [
        ({"minimum": 3, "maximum": 5}, True, {"minimum": 3, "maximum": 5}),
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, True, {"minimum": -9223372036854774784, "maximum": 2**63 - 1}),
        ({"exclusiveMaximum": 2**53 + 1}, True, {"exclusiveMaximum": 2**53}),
        ({"minimum": 10**18}, True, {"minimum": 10**18, "maximum": 2**63 - 1}),
        ({"minimum": 0, "maximum": 1e20}, False, {"minimum": 0, "maximum": 10**18}),
        ({"minimum": -3.4e38}, False, {"minimum": -(10**18)}),
        ({"exclusiveMinimum": 0, "maximum": 0.25}, False, {"exclusiveMinimum": 0, "maximum": 0.25}),
        ({"minimum": 1e-300}, False, {"minimum": 1e-20}),
        ({"minimum": 3, "exclusiveMinimum": True}, True, {"exclusiveMinimum": 3}),
    ],
)
def test_bounds_are_moved_in_to_what_can_be_enforced(schema, is_integer, expected) -> None:
    assert fitted_bounds(schema, is_integer=is_integer) == expected


def test_bounds_beyond_all_that_can_be_enforced_are_refused() -> None:
    with pytest.raises(GrammarError, match="minimum"):
        fitted_bounds({"minimum": 1e30}, is_integer=True)


def test_infinite_number_is_in_no_bounds() -> None:
    assert NumberRange().holds(float("inf")) and not range_of({"maximum": 1}).holds(float("inf"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, True),
        (2**53 + 1, False),
        (10**17, True),
        (0.1, True),
        (10**20, False),
        (1e300, False),
        ([2**53 + 1], False),
        ({"a": "x"}, True),
    ],
)
def test_number_of_an_enum_is_exact_where_a_float_is(value, expected) -> None:
    assert is_exact(value) is expected
