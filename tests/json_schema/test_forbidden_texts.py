"""without_forbidden_texts: no string in a value contains a tag, wherever the schema allows any value."""

from __future__ import annotations

import jsonschema
import pytest

from llamafast.json_schema.forbidden_texts import without_forbidden_texts

ANY_ITEMS = [{"type": "array"}, {"type": "array", "items": {}}, {"type": "array", "items": True}]
ANY_MEMBERS = [
    {"type": "object"},
    {"type": "object", "additionalProperties": True},
    {"type": "object", "propertyNames": True},
]


@pytest.mark.parametrize("schema", [*ANY_ITEMS, *ANY_MEMBERS], ids=str)
def test_guarded_schema_allows_no_string_that_holds_a_tag(schema: dict[str, object]) -> None:
    guard = jsonschema.Draft202012Validator(without_forbidden_texts(schema, ["</p>"], on_unenforced=pytest.fail))

    def of(text: str) -> object:
        return [text] if schema["type"] == "array" else {"a": text}

    assert (guard.is_valid(of("b")), guard.is_valid(of("</p>"))) == (True, False)


@pytest.mark.parametrize("schema", ANY_MEMBERS, ids=str)
def test_guarded_schema_allows_no_name_that_holds_a_tag(schema: dict[str, object]) -> None:
    guard = jsonschema.Draft202012Validator(without_forbidden_texts(schema, ["</p>"], on_unenforced=pytest.fail))
    assert (guard.is_valid({"b": 1}), guard.is_valid({"</p>": 1})) == (True, False)


def test_guarded_schema_keeps_what_allows_nothing() -> None:
    guard = jsonschema.Draft202012Validator(
        without_forbidden_texts({"type": "array", "items": False}, ["</p>"], on_unenforced=pytest.fail)
    )
    assert (guard.is_valid([]), guard.is_valid([1])) == (True, False)
