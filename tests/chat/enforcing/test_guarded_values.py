"""JSON between tags: no key and no string in it contains a tag at which the parser would end the value."""

from __future__ import annotations

import json

import pytest

from llamafast.chat.enforcing.call_syntax import TaggedArguments
from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError
from llamafast.grammars.lark import compile_lark
from tests.chat.calls import read
from tests.chat.formats.test_natural_calls import ONE, stopped_at
from tests.chat.natural_writers import ENFORCED, natural
from tests.chat.writers import Written
from tests.grammars.vocabularies import bytes_vocabulary

STR = {"type": "string"}
TAG = "TAG"
TAGS = {
    name: arguments.close
    for name in ENFORCED
    if isinstance(arguments := registry.by_name(name).syntaxes[0].arguments, TaggedArguments)
}
SOME = ("qwen3_xml", "deepseek_dsml")
CASES: dict[str, tuple[object, object]] = {
    "object": ({"type": "object"}, {"a": TAG}),
    "object with a key": ({"type": "object"}, {TAG: 1}),
    "any members": ({"type": "object", "additionalProperties": True}, {"a": TAG}),
    "any members with a key": ({"type": "object", "additionalProperties": True}, {TAG: 1}),
    "any members beside declared ones": (
        {"type": "object", "properties": {"a": STR}, "additionalProperties": True}, {"a": "x", "b": TAG}
    ),
    "declared name": ({"type": "object", "properties": {TAG: STR}}, {TAG: "x"}),
    "any items": ({"type": "array", "items": True}, [TAG]),
    "any item behind others": ({"type": "array", "prefixItems": [STR], "additionalItems": True}, ["a", TAG]),
    "any items of a reference": ({"$ref": "#/$defs/list"}, [TAG]),
    "any unevaluated items": ({"type": "array", "unevaluatedItems": True}, [TAG]),
    "key of a pattern": ({"type": "object", "patternProperties": {"^x-": STR}}, {f"x-{TAG}": "b"}),
    "key of a pattern alone": (
        {"type": "object", "patternProperties": {"^x-": STR}, "additionalProperties": False}, {f"x-{TAG}": "b"}
    ),
    "value of a key of a pattern": ({"type": "object", "patternProperties": {"^x-": True}}, {"x-a": TAG}),
    "key of a pattern with a tag": ({"type": "object", "patternProperties": {"^<": True}}, {TAG: 1}),
    "name with a pattern": ({"type": "object", "propertyNames": {"pattern": "^<"}}, {TAG: 1}),
    "name of a length": ({"type": "object", "propertyNames": {"maxLength": 60}}, {TAG: 1}),
    "listed name": ({"type": "object", "propertyNames": {"enum": [TAG, "a"]}}, {TAG: 1}),
    "note of a format": ({"type": "array", "items": {**STR, "format": "uri-reference"}}, [TAG]),
    "email": ({"type": "array", "items": {**STR, "format": "email"}}, [f"{TAG}@a.de"]),
}  # fmt: skip


def with_tag(value: object, tag: str) -> object:
    return json.loads(json.dumps(value).replace(TAG, tag))


def tool_of(schema: object, strict: bool) -> Tool:
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"], "additionalProperties": False}
    return Tool("f", "", {**parameters, "$defs": {"list": {"type": "array", "items": True}}}, strict)


def written(name: str, value: object) -> Written:
    call = natural(name, "v", value)
    # JSON is in CDATA only if a model takes it for text.
    return Written(call.prompt, call.text.replace("<![CDATA[", "").replace("]]>", ""))


def stop(name: str, tool: Tool, value: object) -> str | None:
    """The text of this value's call that is not allowed. None: all of it is allowed."""
    call = written(name, value)
    source = registry.by_name(name).grammar(call.prompt, [tool], ONE)
    return stopped_at(compile_lark(bytes_vocabulary(), source), call.text)


def faults(name: str, strict: bool) -> list[str]:
    found = []
    for key, (schema, value) in CASES.items():
        tool = tool_of(with_tag(schema, TAGS[name]), strict)
        try:
            is_allowed = stop(name, tool, with_tag(value, TAGS[name])) is None
        except GrammarError:
            is_allowed = not strict
        found += [key] if is_allowed else []
    return found


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("name", SOME)
def test_json_between_tags_holds_no_closing_tag(name, strict) -> None:
    assert faults(name, strict) == []


@pytest.mark.fuzz
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("name", TAGS)
def test_json_between_tags_of_any_format_holds_no_closing_tag(name, strict) -> None:
    assert faults(name, strict) == []


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "additionalProperties": True}, {"a": {"b<": [1, "<b>"]}}),
        ({"type": "array", "items": True}, ["a", [], {"x": None}]),
        ({"type": "object", "patternProperties": {"^x-": STR}, "additionalProperties": False}, {"x-a": "<b>"}),
        ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, {"abc": 1}),
        ({"type": "object", "propertyNames": {"$ref": "#/$defs/word"}}, {"a": 1}),
        ({"type": "array", "items": {**STR, "format": "uri-reference"}}, ["/a?b=c"]),
        ({"type": "array", "items": {**STR, "format": "date"}}, ["2026-11-27"]),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}, {"a": "x"}),
    ],
)
def test_json_between_tags_holds_all_else(schema, value) -> None:
    tool = tool_of(schema, True)
    tool.parameters["$defs"]["word"] = {"enum": ["a", "b"]}
    assert stop("qwen3_xml", tool, value) is None
    call = written("qwen3_xml", value)
    [found] = read(registry.by_name("qwen3_xml"), call.prompt, [tool], call.text).calls
    assert json.loads(found.arguments) == {"v": value}
