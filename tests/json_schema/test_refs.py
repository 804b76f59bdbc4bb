"""Document: the targets of references, and standalone parts."""

from __future__ import annotations

import pytest

from llamafast.errors import GrammarError
from llamafast.json_schema.refs import Document

ROOT = {
    "$defs": {
        "a/b": {"type": "integer"},
        "a~b": {"type": "null"},
        "My E": {"type": "string"},
        "100%": {"type": "boolean"},
        "é": {"type": "array"},
        "x": {"$anchor": "here", "type": "object"},
    },
    "definitions": {"old": {"const": 1}},
    "properties": {"v": {"anyOf": [{"const": 2}, {"const": 3}]}},
}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("#", ROOT),
        ("#/$defs/a~1b", {"type": "integer"}),
        ("#/$defs/a~0b", {"type": "null"}),
        ("#/$defs/My%20E", {"type": "string"}),
        ("#/$defs/My E", {"type": "string"}),
        ("#/$defs/100%25", {"type": "boolean"}),
        ("#/$defs/%C3%A9", {"type": "array"}),
        ("#/%24defs/x", {"$anchor": "here", "type": "object"}),
        ("#here", {"$anchor": "here", "type": "object"}),
        ("#/definitions/old", {"const": 1}),
        ("#/properties/v/anyOf/1", {"const": 3}),
    ],
)
def test_document_reference_leads_to_its_schema(reference, expected) -> None:
    assert Document(ROOT).target(reference) == expected


@pytest.mark.parametrize("fragment", ["", "#", "#/$defs/x", "#here"])
@pytest.mark.parametrize("base", ["https://x.org/a/b.json", "b.json", "/a/b.json"])
def test_document_reference_by_its_own_id_leads_to_its_schema(base, fragment) -> None:
    document = Document({**ROOT, "$id": "https://x.org/a/b.json"})
    assert document.target(base + fragment) == document.target(fragment or "#")


@pytest.mark.parametrize("reference", ["https://x.org/c.json#/$defs/x", "c.json", "http://[", ""])
def test_document_reference_by_another_id_leads_out(reference) -> None:
    with pytest.raises(GrammarError, match="points to another document"):
        Document({**ROOT, "$id": "https://x.org/a/b.json"} if reference else ROOT).target(reference)


@pytest.mark.parametrize(
    "reference",
    ["#/$defs/y", "#/properties/v/anyOf/2", "#/properties/v/anyOf/-1", "#nobody", "other.json", "http://x/y#/$defs/x"],
)
def test_document_reference_that_leads_nowhere_is_named(reference) -> None:
    with pytest.raises(GrammarError, match="points to") as caught:
        Document(ROOT).target(reference)
    assert repr(reference) in caught.value.message


def test_document_part_stands_alone_with_all_that_it_reaches() -> None:
    node = {"type": "array", "items": {"$ref": "#/$defs/a~1b"}, "title": "N", "contains": {"$ref": "#/properties/n"}}
    root = {**ROOT, "properties": {"n": node, "title": {"const": 1}}}
    part = Document(root).standalone({"$ref": "#/properties/n"})
    found = Document(part).target(part["$ref"])
    assert found.keys() == {"type", "items", "contains"}
    assert Document(part).target(found["items"]["$ref"]) == {"type": "integer"}
    assert Document(part).target(found["contains"]["$ref"]) == found


def test_document_part_keeps_properties_that_are_named_like_notes() -> None:
    schema = {"properties": {"title": {"const": 1}, "$id": {"const": 2}}, "title": "x", "enum": [{"title": "y"}]}
    assert Document(schema).standalone(schema) == {"properties": schema["properties"], "enum": schema["enum"]}
