"""Errors about a conversation name the fields of the client's API."""

from __future__ import annotations

import pytest

from llamafast.errors import ContextLengthError, InvalidRequestError
from llamafast.server.chat.field_names import FieldNames

LEGACY = FieldNames({"tool_choice": "function_call"}, functions=("functions[0]", "functions[1]"))
# A separate system prompt, one item with two results, and a tool that the ChatRequest leaves out.
OTHER = FieldNames(
    {"messages": "input", "parameters": "input_schema", "thinking_budget": "thinking.budget_tokens"},
    messages=("instructions", "input[0]", "input[1].content[0]", "input[1].content[1]"),
    functions=("tools[1]",),
)


@pytest.mark.parametrize(
    ("names", "param", "expected"),
    [
        (FieldNames(), "messages[2].content", "messages[2].content"),
        (FieldNames(), "tools[0].function.parameters", "tools[0].function.parameters"),
        (FieldNames({"max_tokens": "max_completion_tokens"}), "max_tokens", "max_completion_tokens"),
        (LEGACY, "tools[1].function.parameters", "functions[1].parameters"),
        (LEGACY, "tool_choice", "function_call"),
        (LEGACY, "messages[0]", "messages[0]"),
        (OTHER, "messages", "input"),
        (OTHER, "messages[0]", "instructions"),
        (OTHER, "messages[3]", "input[1].content[1]"),
        (OTHER, "messages[9].content", "input[9].content"),
        (OTHER, "tools[0].function.parameters", "tools[1].input_schema"),
        (OTHER, "thinking_budget", "thinking.budget_tokens"),
    ],
)
def test_field_names_of_a_path_are_the_clients(names, param, expected):
    assert names.of(param) == expected


@pytest.mark.parametrize("kind", [InvalidRequestError, ContextLengthError])
def test_field_names_in_errors_replace_the_param_and_its_mention(kind):
    with pytest.raises(kind) as caught, OTHER.in_errors():
        raise kind("messages[2]: refused", param="messages[2]", code="some_code")
    error = caught.value
    assert (error.message, error.param, error.code) == (
        "input[1].content[0]: refused", "input[1].content[0]", "some_code"
    )  # fmt: skip


@pytest.mark.parametrize("error", [InvalidRequestError("no field"), InvalidRequestError("x", param="stop"), KeyError()])
def test_field_names_in_errors_leave_other_errors_as_they_are(error):
    with pytest.raises(type(error)) as caught, OTHER.in_errors():
        raise error
    assert caught.value is error
