"""Enforced calls over HTTP: valid at any temperature, also with reasoning, budgets and a schema."""

from __future__ import annotations

import json

import jsonschema

from tests.e2e.conftest import post, refused

ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "pattern": "^[a-z]{3,9}$"},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "express": {"type": "boolean"},
    },
    "required": ["item", "count"],
    "additionalProperties": False,
}
CANCEL = {
    "type": "object",
    "properties": {"reason": {"enum": ["late", "broken"]}},
    "required": ["reason"],
    "additionalProperties": False,
}
SCHEMAS = {"order": ORDER, "cancel": CANCEL}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
HOT = {"temperature": 1.8, "seed": 3, "max_tokens": 300, "n": 8, "tools": TOOLS}


def asked(server, **fields):
    """The choices of an answer."""
    messages = [{"role": "user", "content": "Order three lamps."}]
    return post(server, "chat/completions", messages=messages, **{**HOT, **fields}).json()["choices"]


def check_calls(choice) -> None:
    assert choice["finish_reason"] == "tool_calls"
    for call in choice["message"]["tool_calls"]:
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])


def test_required_calls_of_hot_choices_meet_their_schemas(server):
    choices = asked(server, tool_choice="required", enable_thinking=False)
    for choice in choices:
        check_calls(choice)
    assert len(choices) == 8


def test_required_calls_follow_reasoning_that_a_budget_ends(server):
    for choice in asked(server, tool_choice="required", enable_thinking=True, thinking_budget=8):
        check_calls(choice)
        assert choice["message"]["reasoning_content"] and not choice["message"]["content"]


def test_named_call_is_of_that_tool_alone(server):
    named = {"type": "function", "function": {"name": "cancel"}}
    for choice in asked(server, tool_choice=named, enable_thinking=False):
        check_calls(choice)
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["cancel"]


def test_answer_with_strict_tools_is_calls_or_the_schema(server):
    answer = {"type": "json_schema", "json_schema": {"name": "a", "schema": CANCEL}}
    for choice in asked(server, response_format=answer, enable_thinking=False):
        if choice["message"].get("tool_calls"):
            check_calls(choice)
        else:
            jsonschema.validate(json.loads(choice["message"]["content"]), CANCEL)


def test_tool_whose_schema_cannot_be_enforced_is_refused_by_name(server):
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}
    tools = [TOOLS[0], {"type": "function", "function": {"name": "bad", "parameters": bad, "strict": True}}]
    messages = [{"role": "user", "content": "Hi"}]
    answer = post(server, "chat/completions", messages=messages, tools=tools, tool_choice="required")
    assert refused(answer, "tools[1].function.parameters")


def test_required_call_that_does_not_fit_is_cut(server):
    for choice in asked(server, tool_choice="required", enable_thinking=False, max_tokens=24, n=2):
        [call] = choice["message"]["tool_calls"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", None)
        assert call["function"]["name"] in SCHEMAS


def test_required_calls_that_are_not_parallel_are_one(server):
    for choice in asked(server, tool_choice="required", enable_thinking=False, parallel_tool_calls=False, n=4):
        check_calls(choice)
        assert len(choice["message"]["tool_calls"]) == 1
