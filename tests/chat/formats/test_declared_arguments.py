"""The arguments that a tool declares and requires matter for damaged calls, whatever keywords declare them."""

from __future__ import annotations

import json

import pytest

from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from llamafast.chat.response_schema.format import ResponseSchemaFormat
from llamafast.chat.tools import Tool

_FIELDS = {"city": {"type": "string"}, "days": {"type": "integer"}}
_PLAIN = {"type": "object", "properties": _FIELDS, "required": ["city"]}
WAYS = {
    "plainly": _PLAIN,
    "by a reference": {"$ref": "#/$defs/args", "$defs": {"args": _PLAIN}},
    "in parts": {"allOf": [{"properties": _FIELDS}, {"required": ["city"]}]},
    "in alternatives": {"anyOf": [_PLAIN, {**_PLAIN, "required": ["city", "days"]}]},
    "beside more alternatives than are read": {**_PLAIN, "anyOf": [{"minProperties": i} for i in range(200)]},
}
_EITHER = {"properties": _FIELDS, "anyOf": [{"required": ["city"]}, {"required": ["days"]}]}


def calls(format: str, text: str, parameters: dict[str, object]) -> list[tuple[object, bool]]:
    parser = registry.by_name(format).parser("", [Tool("f", parameters=parameters)])
    return [(call.arguments, call.is_complete) for call in ParsedMessage.of(parser.read(text)).calls]


@pytest.mark.parametrize("way", WAYS)
def test_value_without_its_closing_tag_ends_where_a_declared_argument_begins(way: str) -> None:
    values = "<parameter=city>Paris <parameter=days>\n3</parameter>"
    [(arguments, is_complete)] = calls("qwen3_xml", f"<function=f>{values}</function>", WAYS[way])
    assert (json.loads(str(arguments)), is_complete) == ({"city": "Paris ", "days": 3}, True)


@pytest.mark.parametrize("parameters", [*WAYS.values(), _EITHER], ids=[*WAYS, "one or the other"])
@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": }</tool_call>'),
        ("functionary_v31", "<function=f></function>"),
        ("functionary_v32", ">>>f\n"),
        ("functionary_v32", ">>>f\n>>>all\nHi"),
    ],
)
def test_call_that_lacks_required_arguments_is_not_complete(
    parameters: dict[str, object], format: str, text: str
) -> None:
    assert all(not is_complete for _, is_complete in calls(format, text, parameters))


@pytest.mark.parametrize(
    ("format", "text"),
    [
        *(("hermes", f'<tool_call>{{"name": "f"{end}}}</tool_call>') for end in ("", ', "arguments": null')),
        ("hermes", '<tool_call>{"name": "f", "arguments": ""}</tool_call>'),
        ("qwen3_xml", "<tool_call><function=f></function></tool_call>"),
        ("glm", "<tool_call>f</tool_call>"),
        ("gemma4", "<|tool_call>call:f{}<tool_call|>"),
    ],
)
def test_whole_call_that_says_it_has_no_arguments_is_complete(format: str, text: str) -> None:
    assert calls(format, text, _PLAIN) == [("{}", True)]


_RESPONSE = {
    "type": "object",
    "properties": {
        "tool_calls": {
            "type": "array",
            "x-regex-iterator": "<call>(.*?)</call>",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "x-regex": r"^(\w+)\("},
                    "arguments": {"type": "string", "x-regex": r"^\w+\((.*?)\)$"},
                },
            },
        }
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_text_of_a_response_schema_is_the_one_argument_that_a_tool_requires(way: str) -> None:
    parser = ResponseSchemaFormat(_RESPONSE).parser("", [Tool("f", parameters=WAYS[way])])
    [call] = ParsedMessage.of(parser.read(["<call>f(Paris)</call>"])).calls
    assert json.loads(call.arguments) == {"city": "Paris"}
