"""simplified: a schema as llguidance accepts it."""

from __future__ import annotations

import pytest

from llamafast.errors import GrammarError
from llamafast.json_schema.alternatives import alternatives
from llamafast.json_schema.refs import Document
from llamafast.json_schema.simplify import simplified


@pytest.mark.parametrize("name", ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"])
def test_count_with_a_point_is_whole(name) -> None:
    found = simplified({name: 2.0})[0]
    assert (found, type(found[name])) == ({name: 2}, int)


def test_count_of_zero_with_a_point_says_nothing() -> None:
    assert simplified({"minLength": 0.0}) == ({}, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [("OBJECT", "object"), (["String", "NULL"], ["string", "null"]), ("integer", "integer")],
)
def test_type_in_capitals_is_that_type(given, expected) -> None:
    [one], [other] = (alternatives({"type": each}, Document({})) for each in (given, expected))
    assert (simplified({"type": given})[0], one.types) == ({"type": expected}, other.types)


def test_type_of_no_schema_is_refused_by_name() -> None:
    with pytest.raises(GrammarError, match="text"):
        simplified({"type": "TEXT"})


def test_schema_that_refers_to_itself_by_its_id_stands_alone() -> None:
    schema = {"$id": "https://x.org/a.json", "type": "object", "properties": {"next": {"$ref": "https://x.org/a.json"}}}
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/a_json"}}}
    assert simplified(schema)[0] == {**node, "$defs": {"a_json": node}}
