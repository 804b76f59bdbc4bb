"""Tools for a template: only what it requires is added, and the client's tools do not change."""

from __future__ import annotations

import copy

import pytest

from llamafast.chat.prompt.template import ChatTemplate
from llamafast.chat.prompt.tool_documents import filled_tools, with_trusted_keywords
from llamafast.chat.prompt.turns import TrustedText

QUESTION = [{"role": "user", "content": "Hi"}]
TOOL = "{% for t in tools %}"
# Each uses a field whose absence is an error.
STRICT = {
    "description": "{{ 'D: ' + t.function.description }}",
    "parameters": "{{ t.function.parameters | tojson }}",
    "properties": "{% for k in t.function.parameters.properties.items() %}{{ k }}{% endfor %}",
    "descriptions": "{% for k, p in t.function.parameters.properties.items() %}{{ '' + p.description }}{% endfor %}",
    "one type": "{% for k, p in t.function.parameters.properties.items() %}{{ '' + p.type }}{% endfor %}",
    "objects": "{% for k, p in t.function.parameters.properties.items() %}{{ 'type' in p }}{% endfor %}",
}
BARE = [
    {},
    {"description": None, "parameters": None},
    {"parameters": {}},
    {"parameters": {"type": "object"}},
    {"parameters": {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "string"}}}},
    {"parameters": {"type": "object", "properties": {"a": {"type": "string", "description": None}}}},
]


def tool(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "look", **fields}}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(TOOL + source + "{% endfor %}{{ messages[0].content }}", bos_token="", eos_token="")


@pytest.mark.parametrize("fields", BARE, ids=str)
@pytest.mark.parametrize("name", STRICT)
def test_tools_that_lack_something_are_taken_by_any_template(name: str, fields: dict[str, object]) -> None:
    strict = template(STRICT[name])
    assert "Hi" in strict.render(QUESTION, tools=filled_tools([tool(**fields)], strict.traits.tool_gaps))


@pytest.mark.parametrize("fields", [BARE[0], *BARE[2:5]], ids=str)
def test_tools_stay_for_templates_that_take_them(fields: dict[str, object]) -> None:
    shown = template("{{ t | tojson }}")
    assert shown.traits.tool_gaps == frozenset()
    assert filled_tools([tool(**fields)], shown.traits.tool_gaps) == [tool(**fields)]


def test_tools_gaps_are_only_those_of_the_template() -> None:
    assert template(STRICT["description"]).traits.tool_gaps == {"description"}
    assert template("{{ raise_exception('no tools') }}").traits.tool_gaps == frozenset()


def test_tools_of_the_client_are_not_changed() -> None:
    given = [
        tool(parameters={"type": "object", "properties": {"a": True, "b": {"type": ["null", "array"], "items": {}}}})
    ]
    before = copy.deepcopy(given)
    gaps = frozenset({"description", "descriptions", "one type", "additional", "objects", "items"})
    (shown,) = filled_tools(given, gaps)
    assert given == before
    filled: dict[str, object] = {"description": "", "additionalProperties": {}}
    assert shown["function"]["parameters"]["properties"] == {
        "a": filled,
        "b": {**filled, "type": "array", "items": filled},
    }


@pytest.mark.parametrize("keyword", ["items", "additionalProperties", "not", "contains", "propertyNames", "if"])
@pytest.mark.parametrize("given", [True, {}], ids=str)
def test_tools_are_filled_in_wherever_a_schema_stands(keyword: str, given: object) -> None:
    gaps = frozenset({"descriptions", "objects"})
    (shown,) = filled_tools([tool(parameters={"type": "object", "properties": {"a": {keyword: given}}})], gaps)
    assert shown["function"]["parameters"]["properties"]["a"][keyword] == {"description": ""}


def test_tools_keywords_and_types_are_own_texts_but_no_names_of_properties() -> None:
    schema = {
        "type": "object",
        "properties": {"type": {"type": ["string", "null"], "enum": ["string"]}, "items": {"items": {"type": "array"}}},
    }
    shown = with_trusted_keywords(tool(parameters=schema))
    assert shown == tool(parameters=schema)
    own: list[str] = []
    theirs: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            (own if isinstance(value, TrustedText) else theirs).append(str(value))
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(name)
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(shown)
    assert sorted(theirs) == ["items", "look", "string", "type"]
    assert {"type", "function", "parameters", "properties", "enum", "items", "array", "string", "null"} <= set(own)
