"""Requests that fail on other servers, as their users reported: each gets an answer, and no message is lost."""

from __future__ import annotations

import pytest

from .conftest import post, refused

TOOL = {
    "type": "function",
    "function": {
        "name": "t",
        "description": "d",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "Hello"}
PIM, NOTES = "You are Pim.", "Project notes: the build uses make."


def chat(server, messages, **fields):
    body = {"temperature": 0, "max_tokens": 8, "chat_template_kwargs": {"enable_thinking": False}, **fields}
    return post(server, "chat/completions", messages=messages, **body)


def prompt_tokens(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens"]


def system(text, role="system"):
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    "arguments",
    ['{"path": "/srv/no', "null", "", "[1]", "5", '{"path":"a"}{"path":"b"}', '"{\\"path\\": \\"a\\"}"', "<no JSON>"],
)
def test_reported_history_with_any_arguments_gets_an_answer(server, arguments):
    call = {"id": "c1", "type": "function", "function": {"name": "t", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Run it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "error: arguments were cut off"},
        {"role": "user", "content": "Try again."},
    ]
    assert chat(server, messages, tools=[TOOL]).status_code == 200


def test_reported_call_cut_by_max_tokens_can_be_sent_back(server):
    question = {"role": "user", "content": "Keep a very long text in a file."}
    answer = chat(server, [question], tools=[TOOL], tool_choice="required", max_tokens=14).json()["choices"][0]
    (call,) = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "length"
    messages = [question, answer["message"], {"role": "tool", "tool_call_id": call["id"], "content": "cut off"}]
    assert chat(server, messages, tools=[TOOL]).status_code == 200


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("is_late", [False, True])
def test_reported_second_system_message_is_in_the_prompt(server, role, is_late):
    turns = [USER, {"role": "assistant", "content": "Bonjour."}] if is_late else []
    without = prompt_tokens(chat(server, [system(PIM), *turns, USER]))
    with_notes = prompt_tokens(chat(server, [system(PIM), *turns, system(NOTES, role), USER]))
    assert with_notes >= without + len(NOTES.split())


@pytest.mark.parametrize("seed", [-1, 4294967295])
def test_reported_random_seeds_draw_differently(server, seed):
    def text():
        body = {"prompt": "Once upon a time", "seed": seed, "temperature": 2.0, "max_tokens": 12}
        return post(server, "completions", **body).json()["choices"][0]["text"]

    assert len({text() for _ in range(4)}) > 1


def test_reported_cached_prompt_has_the_logprobs_of_a_cold_one_up_to_rounding(server):
    def first_logprob():
        body = {"prompt": "List: apple, banana, and then some more of it,", "temperature": 0, "max_tokens": 1}
        return post(server, "completions", logprobs=0, **body).json()["choices"][0]["logprobs"]["token_logprobs"][0]

    assert first_logprob() == pytest.approx(first_logprob(), abs=0.01)


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", 100.0), ("max_tokens", -1), ("top_k", 40.0), ("seed", 7.0), ("seed", "1")]
)
def test_reported_loose_numbers_are_refused_by_name_as_openai_does(server, field, value):
    assert refused(chat(server, [USER], **{field: value}), field)


def test_reported_flat_response_format_is_enforced(server):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    answer = chat(server, [USER], response_format={"type": "json_schema", "schema": schema}, max_tokens=30)
    assert set(answer.json()["choices"][0]["message"]["content"]) <= set('{"a": 0123456789}\n')


def test_reported_schema_with_dialect_and_free_additions_is_taken_in_a_tool(server):
    inner = {"type": "object", "properties": {"d": {"type": "string", "format": "date"}}, "required": ["d"],
             "additionalProperties": {}}  # fmt: skip
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"f": inner},
              "required": ["f"], "additionalProperties": {}}  # fmt: skip
    tool = {"type": "function", "function": {"name": "t", "description": "d", "parameters": schema}}
    assert chat(server, [USER], tools=[tool], tool_choice="required").status_code == 200


@pytest.mark.parametrize("function", [{"name": "t"}, {"name": "t", "description": None, "parameters": None}])
def test_reported_tool_without_description_and_parameters_is_taken(server, function):
    assert chat(server, [USER], tools=[{"type": "function", "function": function}]).status_code == 200
