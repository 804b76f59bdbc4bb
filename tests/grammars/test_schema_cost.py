"""Schemas whose automata multiply are refused before anything is compiled."""

from __future__ import annotations

import pytest

from llamafast.errors import GrammarError
from llamafast.grammars.schema_cost import check_schema_cost
from tests.grammars.schemas import SCHEMAS

HARD = [{"pattern": f"^.*a.{{{i}}}$"} for i in range(30)]
CLASSES = "^.*(" + "|".join(f"[{chr(97 + i % 20)}-z{i}]" for i in range(300)) + ")$"

REFUSED = {
    "a large multiple": {"type": "integer", "multipleOf": 999_983},
    "a fine multiple": {"type": "number", "multipleOf": 1.00001},
    "a multiple of too many decimals": {"type": "number", "multipleOf": 1e-10},
    "multiples that meet": {"allOf": [{"multipleOf": n} for n in (97, 89, 83)]},
    "a multiple that meets one of a branch": {"multipleOf": 997, "anyOf": [{"multipleOf": 2}, {"multipleOf": 991}]},
    "a multiple behind a reference": {
        "$ref": "#/$defs/a", "multipleOf": 997, "$defs": {"a": {"multipleOf": 991}},
    },
    "an endless multiple": {"multipleOf": 1e309},
    "patterns that meet": {"type": "string", "allOf": HARD},
    "patterns that meet in an item": {"type": "array", "items": {"allOf": HARD}},
    "patterns that meet by references": {
        "allOf": [{"$ref": f"#/$defs/{i}"} for i in range(30)], "$defs": {str(i): s for i, s in enumerate(HARD)},
    },
    "patterns that meet in a branch": {"allOf": HARD[:6], "anyOf": [{"minLength": 1}, {"allOf": HARD[6:12]}]},
    "patterns that meet level by level": {
        "$ref": "#/$defs/0",
        "$defs": {
            **{str(i): {**HARD[i], "allOf": [{"$ref": f"#/$defs/{i + 1}"}]} for i in range(29)}, "29": HARD[29],
        },
    },
    "two patterns of many classes": {"allOf": [{"pattern": CLASSES}, {"pattern": "x" + CLASSES}]},
}  # fmt: skip

ALLOWED = {
    "money": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1e9},
    "thousands": {"type": "integer", "multipleOf": 10_000},
    "seconds of a day": {"type": "integer", "multipleOf": 86_400},
    "five digits": {"type": "number", "multipleOf": 12.345},
    "no multiple": {"multipleOf": 0},
    "rules for a password": {
        "type": "string", "minLength": 8, "maxLength": 64,
        "allOf": [{"pattern": p} for p in ("[A-Z]", "[a-z]", "[0-9]", "[^A-Za-z0-9]")],
    },
    "a long pattern": {"type": "string", "pattern": CLASSES},
    "a pattern and a length": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$", "maxLength": 64},
    "many patterns apart": {"type": "object", "properties": {f"p{i}": schema for i, schema in enumerate(HARD)}},
    "patterns of which one holds": {"anyOf": HARD},
    "what refers to itself": {"pattern": "a", "allOf": [{"$ref": "#"}]},
    "a large multiple that is data": {"const": {"multipleOf": 999_983}},
    "large multiples that are data": {"type": "object", "enum": [{"a": {"multipleOf": 999_983}}]},
    "a large multiple in a note": {"default": {"multipleOf": 999_983}, "examples": [{"multipleOf": 999_983}]},
    "properties with names of keywords": {"properties": {"multipleOf": {"pattern": "a"}, "pattern": True}},
    "all types wrong": {"pattern": 1, "multipleOf": "2", "allOf": {"pattern": "a"}, "$ref": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_schema_that_multiplies_is_refused(name) -> None:
    with pytest.raises(GrammarError):
        check_schema_cost(REFUSED[name])


@pytest.mark.parametrize("name", ALLOWED)
def test_schema_of_bounded_cost_passes(name) -> None:
    check_schema_cost(ALLOWED[name])


def test_schemas_of_applications_pass() -> None:
    for schema in SCHEMAS.values():
        check_schema_cost(schema)
