"""ArgumentWriter: turns bare text into JSON values, by the types of a tool's schema."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.chat.reading import value_schema
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.tools import Tool
from llamafast.json_schema.alternatives import alternatives

DEFS = {
    "name": {"type": "string"},
    "loop": {"$ref": "#/$defs/loop"},
    "a/b": {"type": "integer"},
    "either": {"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]},
}


def fragments(schema: object, pieces: list[str], is_string: bool | None = None) -> list[str]:
    """The JSON of one value that arrives in pieces, and the rest of the object."""
    writer = ArgumentWriter("f", [Tool("f", parameters={"properties": {"k": schema}, "$defs": DEFS})])
    head = writer.begin("k", is_string=is_string)
    return [head, *(writer.add(piece) for piece in pieces), writer.end() + writer.close()]


def value(schema: object, text: str, is_string: bool | None = None) -> object:
    return json.loads("".join(fragments(schema, [text], is_string)))["k"]


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '"a"', '"a"'),
        ({"type": "integer"}, " 5\n", 5),
        ({"type": "integer"}, "5.0", 5.0),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "true", "true"),
        ({"type": "number"}, "-1e3", -1000.0),
        ({"type": "number"}, "Infinity", "Infinity"),
        ({"type": "number"}, "1" * 5000, "1" * 5000),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "null"}, "None", None),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, "['a', True, None]", ["a", True, None]),
        ({"type": "array"}, "", []),
        ({"type": "array"}, "[1", "[1"),
        ({"type": "array"}, "[" * 5000, "[" * 5000),
        ({"type": "object"}, '{"a": {"b": null}}', {"a": {"b": None}}),
        ({"type": "object"}, "{'a': {1, 2}}", "{'a': {1, 2}}"),
        ({"type": "object"}, "[]", "[]"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "nullable", "nullable"),
        ({"type": ["string", "null"]}, " ", " "),
        ({"type": ["string", "null"]}, " null ", None),
        ({"type": ["string", "null"]}, " " * 20 + "null", " " * 20 + "null"),
        ({"type": ["integer", "string"]}, "5", 5),
        ({"type": ["integer", "string"]}, "5a", "5a"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "5", 5),
        ({"oneOf": [{"type": "boolean"}, {"type": "array"}]}, "[]", []),
        ({"allOf": [{"type": "integer"}]}, "5", 5),
        ({"anyOf": [{"type": "string"}, {}]}, "5", 5),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"enum": ["1", 2]}, "1", "1"),
        ({"enum": ["1", 2]}, "2", 2),
        ({"allOf": [{"description": "d"}, {"type": "string", "enum": ["7"]}]}, "7", "7"),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "string"}]}, "7", "7"),
        ({"anyOf": [{"type": "string", "pattern": "^[0-9]{2}$"}, {"type": "integer", "minimum": 100}]}, "50", "50"),
        ({"anyOf": [{"type": "string", "pattern": "^[0-9]{2}$"}, {"type": "integer", "minimum": 100}]}, "100", 100),
        ({"anyOf": [{"enum": ["auto"]}, {"type": "integer", "minimum": 3}]}, "2", 2),
        ({"type": "string", "enum": ["a", None]}, "null", "null"),
        ({"enum": ["null", None]}, "null", "null"),
        ({"type": "integer", "minimum": 3}, "2", 2),
        ({"$ref": "#/$defs/either/anyOf/0"}, "5", 5),
        ({"$ref": "#/$defs/a%7E1b"}, "5", 5),
        ({"const": "5"}, "5", "5"),
        ({"const": 5}, "5", 5),
        ({"$ref": "#/$defs/name"}, "5", "5"),
        ({"$ref": "#/$defs/a~1b"}, "5", 5),
        ({"$ref": "#/$defs/either"}, "null", None),
        ({"$ref": "#/$defs/loop"}, "5", 5),
        ({"$ref": "#/$defs/missing"}, "x", "x"),
        ({"properties": {}}, "{}", {}),
        ({}, "5", 5),
        ({}, "05", "05"),
        ({}, "true", True),
        ({}, "True", True),
        ({}, "text", "text"),
        ({}, '"a"', '"a"'),
        ({}, "", ""),
        (True, "[1]", [1]),
        (None, "{}", {}),
    ],
)
def test_arguments_value_has_a_type_that_its_schema_allows(schema, text: str, expected: object) -> None:
    assert json.dumps(value(schema, text)) == json.dumps(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(), max_size=5), st.sampled_from([{"type": "string"}, {"type": ["string", "null"]}, {}]))
def test_arguments_pieces_add_up_to_the_whole(pieces, schema) -> None:
    whole = "".join(fragments(schema, ["".join(pieces)]))
    assert "".join(fragments(schema, pieces)) == whole


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_arguments_string_keeps_every_character(text) -> None:
    assert value({"type": "string"}, text) == text


def test_arguments_string_is_written_while_it_comes() -> None:
    assert fragments({"type": "string"}, ['a"', "\n"]) == ['{"k": "', 'a\\"', "\\n", '"}']


def test_arguments_string_or_null_waits_only_for_null() -> None:
    assert fragments({"type": ["string", "null"]}, ["nu", "t", "s"]) == ['{"k": ', "", '"nut', "s", '"}']


@pytest.mark.parametrize(("is_string", "expected"), [(True, "5"), (False, 5)])
def test_arguments_type_that_the_model_gives_comes_before_the_schema(is_string: bool, expected: object) -> None:
    assert value({"type": "boolean"}, "5", is_string) == expected


def test_arguments_of_additional_properties_have_their_type() -> None:
    tool = Tool("f", parameters={"type": "object", "additionalProperties": {"type": "string"}})
    writer = ArgumentWriter("f", [tool])
    assert writer.begin("other") == '{"other": "'


def test_arguments_without_values_are_an_empty_object() -> None:
    assert ArgumentWriter("f", None).close() == "{}"


def test_arguments_of_all_calls_of_a_tool_read_its_schema_once(monkeypatch) -> None:
    read: list[object] = []
    monkeypatch.setattr(value_schema, "alternatives", lambda *given: read.append(given[0]) or alternatives(*given))
    tool = Tool("f", parameters={"properties": {"k": {"type": "string"}}})
    heads = [ArgumentWriter("f", [tool]).begin("k") for _ in range(3)]
    assert (heads, len(read)) == (['{"k": "'] * 3, 2)  # the arguments, and the one that is named
