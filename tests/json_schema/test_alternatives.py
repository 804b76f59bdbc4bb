"""The alternatives of a schema: types, values and limits, also with references and combinations."""

from __future__ import annotations

import pytest

from llamafast.errors import GrammarError
from llamafast.json_schema import types
from llamafast.json_schema.alternatives import Alternative, alternatives
from llamafast.json_schema.merged import merged
from llamafast.json_schema.refs import Document

STR, INT = {"type": "string"}, {"type": "integer"}
DEFS = {"digits": {"enum": ["1", "2"]}, "either": {"anyOf": [{"$ref": "#/$defs/digits"}, {"type": "null"}]}}


def found(schema: dict[str, object]) -> list[Alternative]:
    return alternatives(schema, Document({**schema, "$defs": DEFS}))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (STR, [["string"]]),
        ({"type": ["number", "null"]}, [["null", "number"]]),
        ({"anyOf": [STR, INT]}, [["string"], ["integer"]]),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "number"}]}, [["integer"]]),
        ({"allOf": [STR, INT]}, []),
        ({"anyOf": [STR, False]}, [["string"]]),
        ({"enum": ["a", 1.5, None]}, [["null", "number", "string"]]),
        ({"type": "string", "enum": ["a", None]}, [["string"]]),
        ({"type": "string", "minLength": 3, "maxLength": 2}, []),
        ({"$ref": "#/$defs/either"}, [["string"], ["null"]]),
        ({"$ref": "#/$defs/either/anyOf/0"}, [["string"]]),
        ({"type": "null", "$ref": "#/$defs/either"}, [["null"]]),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [["object"], ["object"]]),
    ],
)
def test_alternatives_have_the_types_that_all_parts_leave(schema, expected) -> None:
    assert [types.names(each.types) for each in found(schema)] == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ("b",)),
        ({"enum": ["a", "bcd"], "maxLength": 2}, ("a",)),
        ({"enum": [1, 5, "x"], "minimum": 3}, (5, "x")),
        ({"enum": [1, True]}, (1, True)),
        ({"const": 1, "enum": [1.0, 2]}, (1.0,)),
        ({"allOf": [{"const": {"a": [1]}}, {"enum": [{"a": [1.0]}]}]}, ({"a": [1]},)),
        ({"type": "string"}, None),
    ],
)
def test_alternative_has_the_values_that_all_parts_leave(schema, expected) -> None:
    assert [each.values for each in found(schema)] == [expected]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([STR, INT], False),
        ([INT, {"type": "number"}], True),
        ([{"enum": ["a"]}, {"enum": ["b"]}], False),
        ([{"enum": ["a"]}, STR], True),
        ([{"properties": {"k": {"const": k}}, "required": ["k"], "type": "object"} for k in "xy"], False),
        ([{"properties": {k: INT}, "required": [k], "type": "object"} for k in "xy"], True),
        (
            [{"properties": {k: INT}, "required": [k], "type": "object", "additionalProperties": False} for k in "xy"],
            False,
        ),
    ],
)
def test_alternatives_of_one_of_overlap_unless_it_is_plain_that_they_do_not(options, expected) -> None:
    assert {each.is_overlapping for each in found({"oneOf": options})} == {expected}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, STR]},
        {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(9)]},
        {"$ref": "#/$defs/nobody"},
        {"type": "nothing"},
    ],
    ids=["itself", "in a choice", "product", "nowhere", "type"],
)
def test_alternatives_that_cannot_be_told_are_refused(schema) -> None:
    with pytest.raises(GrammarError):
        found(schema)


def test_alternative_in_one_schema_says_what_its_parts_do() -> None:
    base = {"type": "object", "properties": {"a": STR, "b": {"maximum": 5}}, "required": ["a"]}
    more = {"properties": {"a": True, "b": INT}, "required": ["b"], "additionalProperties": False, "maxProperties": 2}
    [alternative] = found({"allOf": [base, more], "minProperties": 1})
    assert merged(alternative) == {
        "type": ["object"],
        "properties": {"a": {"allOf": [STR, True]}, "b": {"allOf": [{"maximum": 5}, INT]}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    }


def test_members_of_an_object_in_many_parts_are_each_looked_up_in_the_part_that_has_them() -> None:
    num_looked_up = 0

    class Table(dict[str, object]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            nonlocal num_looked_up
            num_looked_up += 1
            return super().get(name, default)

        def __getitem__(self, name: str) -> object:
            return self.get(name)

        def __contains__(self, name: object) -> bool:
            return self.get(str(name)) is not None

    parts = tuple({"properties": Table({f"p{i}_{j}": STR for j in range(5)})} for i in range(40))
    assert len(Alternative(parts, types.ALL).properties) == 200
    assert num_looked_up == 200
