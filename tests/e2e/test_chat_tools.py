"""Tools, reasoning and their limits through openai-python, on the built-in model."""

from __future__ import annotations

import json

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.e2e.conftest import post, refused

QUESTIONS = (
    "What is the weather in Paris?",
    "What is the weather in Paris and London?",
    "Add 12 and 30.",
    "What is the capital of France?",
)


@pytest.fixture(scope="module")
def tool_chats(transcripts):
    """One conversation of each kind, with and without reasoning. Some end in a tool's result."""
    chats = [item for item in transcripts if item["tools"]]
    return [item for item in chats if item["messages"][-1]["content"] in QUESTIONS or len(item["messages"]) > 1]


def options(model_name, item, **fields):
    return {
        "model": model_name, "messages": item["messages"], "tools": item["tools"], "temperature": 0, "max_tokens": 100,
        "extra_body": {"enable_thinking": item["thinking"]}, **fields,
    }  # fmt: skip


def streamed(client, **fields):
    """The message and the finish reason of each choice, joined from the chunks by openai-python."""
    state = ChatCompletionStreamState()
    for chunk in client.chat.completions.create(**fields, stream=True):
        state.handle_chunk(chunk)
    return sorted(state.current_completion_snapshot.choices, key=lambda choice: choice.index)


def plain(choice):
    """A choice without the ids of its calls, which differ between two answers."""
    message = choice.message.model_dump(exclude_none=True, exclude={"parsed"})
    for call in message.get("tool_calls", ()):
        assert call.pop("id").startswith("call_")
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    return message, choice.message.content, choice.finish_reason


def test_tool_chats_streamed_add_up_to_the_whole_answers(client, model_name, tool_chats):
    for item in tool_chats:
        fields = options(model_name, item)
        whole = client.chat.completions.create(**fields).choices
        assert [plain(choice) for choice in streamed(client, **fields)] == [plain(choice) for choice in whole]


def test_parallel_calls_of_two_choices_have_their_own_indices_and_ids(client, model_name, tool_chats):
    item = next(item for item in tool_chats if item["messages"][-1]["content"] == QUESTIONS[1])
    choices = streamed(client, **options(model_name, item, n=2))
    calls = [[(call.function.name, call.function.arguments) for call in c.message.tool_calls] for c in choices]
    assert calls[0] == calls[1] == [("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "London"}')]
    assert len({call.id for choice in choices for call in choice.message.tool_calls}) == 4
    assert [choice.finish_reason for choice in choices] == ["tool_calls"] * 2


def test_parallel_tool_calls_false_ends_after_the_first_call(server, client, model_name, tool_chats):
    item = next(item for item in tool_chats if item["messages"][-1]["content"] == QUESTIONS[1])
    (choice,) = client.chat.completions.create(**options(model_name, item, parallel_tool_calls=False)).choices
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"city": "Paris"}']
    assert choice.finish_reason == "tool_calls"
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def test_required_and_named_calls_come_whatever_is_asked(client, model_name, tool_chats):
    item = {**tool_chats[0], "messages": [{"role": "user", "content": "Hello!"}]}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        answer = client.chat.completions.create(**options(model_name, item, tool_choice=choice))
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert set(json.loads(call.function.arguments)) <= {"city", "unit"}
        assert answer.choices[0].finish_reason == "tool_calls"


def test_call_and_its_result_make_the_next_turn(client, model_name, tool_chats):
    item = next(item for item in tool_chats if not item["thinking"])
    first = client.chat.completions.create(**options(model_name, item)).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": '{"temperature": 18}'}
    second = options(model_name, {**item, "messages": [*item["messages"], first, result]})
    answer = client.chat.completions.create(**second)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.cached_tokens > 0


def test_stop_at_a_line_leaves_a_call_whole(client, model_name, tool_chats):
    for item in tool_chats[:2]:
        (choice,) = client.chat.completions.create(**options(model_name, item, stop="\n")).choices
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_logprobs_spell_the_content(client, model_name, tool_chats):
    item = next(item for item in tool_chats if item["messages"][-1]["content"] == QUESTIONS[3] and item["thinking"])
    choice = client.chat.completions.create(**options(model_name, item, logprobs=True)).choices[0]
    assert b"".join(bytes(entry.bytes) for entry in choice.logprobs.content).decode() == choice.message.content


def test_stop_in_the_content_gives_what_the_engine_gives(client, model_name, tool_chats):
    item = next(item for item in tool_chats if item["messages"][-1]["content"] == QUESTIONS[3] and not item["thinking"])
    fields = options(model_name, item, stop=["France", " is"], logprobs=True)
    chat = client.chat.completions.create(**fields)
    text = client.completions.create(model=model_name, prompt=item["prompt"], temperature=0, stop=["France", " is"])
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == (text.choices[0].text, "stop")
    assert chat.usage.completion_tokens == text.usage.completion_tokens


def test_thinking_budget_closes_the_reasoning_and_the_answer_follows(client, model_name, tool_chats):
    item = next(item for item in tool_chats if item["thinking"])
    fields = options(model_name, {**item, "tools": []}, extra_body={"enable_thinking": True, "thinking_budget": 3})
    answer = client.chat.completions.create(**fields)
    assert answer.choices[0].message.reasoning.endswith("I have to answer now.")
    assert answer.choices[0].message.content
    assert 3 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


def test_legacy_function_is_called(client, model_name, tool_chats):
    item = next(item for item in tool_chats if not item["thinking"])
    fields = options(model_name, item)
    functions = [tool["function"] for tool in fields.pop("tools")]
    choice = client.chat.completions.create(**fields, functions=functions).choices[0]
    assert choice.finish_reason == "function_call"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Paris"}


def test_tool_that_is_no_function_is_refused(server):
    tools = [{"type": "custom", "custom": {"name": "x"}}]
    assert refused(post(server, "chat/completions", messages=[{"role": "user", "content": "Hi"}], tools=tools),
                   "tools[0].type")  # fmt: skip
