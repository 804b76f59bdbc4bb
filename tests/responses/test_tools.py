"""The tools of a Responses request as chat tools."""

from __future__ import annotations

import pytest

from llamafast.errors import InvalidRequestError
from llamafast.responses.tools import ToolOrigin, ToolTable

FUNCTION = {"type": "function", "name": "get", "parameters": {"type": "object"}, "strict": None}
CUSTOM = {"type": "custom", "name": "sh", "format": {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}}


def table(*tools) -> ToolTable:
    made = ToolTable()
    made.add(tools, "tools")
    return made


def test_function_is_a_chat_tool():
    assert table(FUNCTION).chat_tools == [
        {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
    ]


def test_custom_tool_is_a_function_of_one_text():
    made = table(CUSTOM)
    assert made.chat_tools[0]["function"]["parameters"]["required"] == ["input"]
    assert made.origins == {"sh": ToolOrigin("custom", "sh")}


@pytest.mark.parametrize(("namespace", "seen"), [("mcp", "mcp__get"), ("mcp__", "mcp__get"), ("mcp/", "mcp/get")])
def test_namespace_stands_before_the_name_once(namespace, seen):
    made = table({"type": "namespace", "name": namespace, "tools": [FUNCTION]})
    assert made.origins == {seen: ToolOrigin("function", "get", namespace)}
    assert made.model_name("function", "get", namespace) == seen


@pytest.mark.parametrize("kind", ["web_search", "mcp", "file_search", "something_new"])
def test_hosted_tool_is_left_out_with_a_warning(kind):
    made = table({"type": kind}, FUNCTION)
    assert [tool["function"]["name"] for tool in made.chat_tools] == ["get"]
    assert made.kept == [FUNCTION]
    assert kind in made.warnings[0]


def test_equal_tools_are_one():
    made = table(FUNCTION, FUNCTION)
    assert len(made.chat_tools) == 1


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        (["get"], "tools[0]"),
        ([{"name": "get"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].name"),
        ([FUNCTION, {**FUNCTION, "description": "other"}], "tools[1].name"),
        ([{"type": "namespace", "name": "n"}], "tools[0].tools"),
        ([{"type": "namespace", "name": "n", "tools": [1]}], "tools[0].tools[0]"),
        ([{"type": "custom", "name": "sh", "format": {"type": "xml"}}], "tools[0].format.type"),
        ([{"type": "custom", "name": "sh", "format": {"type": "grammar", "syntax": "gbnf"}}], "tools[0].format.syntax"),
    ],
)
def test_tool_that_is_wrong_is_named(tools, param):
    with pytest.raises(InvalidRequestError) as caught:
        table(*tools)
    assert caught.value.param == param


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_choice_of_a_word_stays(choice):
    assert table(FUNCTION).chat_choice(choice) == choice


def test_choice_of_a_tool_names_it_as_the_model_sees_it():
    made = table({"type": "namespace", "name": "mcp", "tools": [FUNCTION]})
    named = {"type": "function", "function": {"name": "mcp__get"}}
    assert made.chat_choice({"type": "function", "name": "get"}) == named
    assert made.chat_choice({"type": "function", "name": "mcp__get"}) == named
    assert made.chat_choice(
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get"}]}
    ) == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [named]},
    }


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        (3, "tool_choice"),
        ({"type": "web_search"}, "tool_choice"),
        ({"type": "function", "name": "other"}, "tool_choice.name"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice.tools"),
        ({"type": "allowed_tools", "mode": "all", "tools": [FUNCTION]}, "tool_choice.mode"),
    ],
)
def test_choice_that_is_wrong_is_named(choice, param):
    with pytest.raises(InvalidRequestError) as caught:
        table(FUNCTION).chat_choice(choice)
    assert caught.value.param == param
