"""POST /v1/chat/completions against a scripted engine."""

from __future__ import annotations

import threading

import pytest

from llamafast.chat.prompt.template import TemplateError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage

USER = {"role": "user", "content": "Hi"}


def test_chat_whole_answer_has_openai_shape(server):
    answer = server.chat(model="tiny").json()
    num_prompt_tokens = len(server.engine.requests[0].prompt_token_ids)
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "system_fingerprint": server.model.fingerprint,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": 5,
            "total_tokens": num_prompt_tokens + 5,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_chat_stream_chunks_come_in_openai_order(server, events):
    response = server.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, end = events(response.content)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert end == "[DONE]"


def test_chat_stream_without_include_usage_has_no_usage(server, events):
    chunks = events(server.chat(stream=True).content)
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_chat_stream_with_continuous_usage_counts_up(server, events):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _ = events(server.chat(stream=True, stream_options=options).content)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 3, 5, 5, 5]
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


def test_chat_stream_of_two_choices_gives_each_its_role_once(server, events):
    *chunks, _ = events(server.chat(stream=True, n=2).content)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["index"] for choice in choices if "role" in choice["delta"]] == [0, 1]
    assert ["".join(c["delta"].get("content", "") for c in choices if c["index"] == i) for i in (0, 1)] == ["Hello"] * 2


def test_chat_two_choices_share_one_usage(server):
    answer = server.chat(n=2).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello", "Hello"]
    assert answer["usage"]["completion_tokens"] == 10


def test_chat_sampling_fields_reach_the_engine(server):
    fields = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3, "n": 2,
        "frequency_penalty": 0.2, "presence_penalty": 0.3, "min_tokens": 1, "ignore_eos": True,
    }  # fmt: skip
    server.chat(
        **fields,
        max_completion_tokens=9,
        stop="x",
        stop_token_ids=[5],
        logit_bias={"7": -100},
        logprobs=True,
        top_logprobs=4,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
    )
    (request,) = server.engine.requests
    assert {name: getattr(request.params, name) for name in fields} == fields
    assert (request.params.max_tokens, request.params.stop, request.params.stop_token_ids) == (9, ("x",), (5,))
    assert (request.params.logit_bias, request.params.logprobs) == (((7, -100.0),), 4)
    assert (request.params.include_stop, request.skip_special) == (True, False)


def test_chat_max_completion_tokens_wins_over_max_tokens(server):
    server.chat(max_tokens=3, max_completion_tokens=4)
    server.chat(max_tokens=3)
    server.chat()
    assert [request.params.max_tokens for request in server.engine.requests] == [4, 3, None]


def test_chat_null_fields_count_as_absent(server):
    assert server.chat(temperature=None, n=None, stop=None, tools=None, stream=None, unheard_of=None).status_code == 200
    assert server.engine.requests[0].params.temperature == 1.0


def test_chat_text_parts_are_joined(server):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert server.chat(messages=[{"role": "user", "content": parts}]).status_code == 200
    assert server.template.calls[0]["messages"] == [{"role": "user", "content": "a\nb"}]


def test_chat_developer_becomes_system_and_extra_fields_stay(server):
    messages = [
        {"role": "developer", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": None, "reasoning_content": "hm"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        USER,
    ]
    server.chat(messages=messages)
    assert server.template.calls[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
        USER,
    ]


def test_chat_past_tool_call_arguments_reach_the_template_as_object(server):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    server.chat(messages=[USER, {"role": "assistant", "tool_calls": [call]}, USER])
    (seen,) = server.template.calls[0]["messages"][1]["tool_calls"]
    assert seen["function"] == {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize("arguments", ['{"path": "/srv/no', "[1]", '{"a": 1}{"b": 2}'])
def test_chat_past_tool_call_with_bad_arguments_loses_no_conversation(server, arguments):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    response = server.chat(messages=[USER, {"role": "assistant", "tool_calls": [call]}, USER])
    assert response.status_code == 200
    (seen,) = server.template.calls[0]["messages"][1]["tool_calls"]
    assert seen["function"]["arguments"] == {"arguments": arguments}


def test_chat_template_gets_kwargs_and_reasoning_effort(server):
    server.chat(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low")
    (call,) = server.template.calls
    assert (call["enable_thinking"], call["reasoning_effort"]) == (False, "low")
    assert (call["add_generation_prompt"], call["continue_final_message"]) == (True, False)


def test_chat_continue_final_message_asks_for_no_generation_prompt(server):
    server.chat(messages=[USER, {"role": "assistant", "content": "Yo"}], continue_final_message=True)
    (call,) = server.template.calls
    assert (call["add_generation_prompt"], call["continue_final_message"]) == (False, True)


def test_chat_without_template_is_refused(make_server):
    response = make_server(chat_template=None).chat()
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"


def test_chat_template_refusal_is_a_400(server):
    def refuse(messages, /, **kwargs):
        raise TemplateError("there is no user message")

    server.template.render = refuse
    response = server.chat()
    assert response.status_code == 400
    assert "there is no user message" in response.json()["error"]["message"]


def test_chat_long_text_is_encoded_off_the_event_loop(server):
    server.engine.max_seq_len = 30_000
    threads = []
    encode = server.engine.tokenizer.encode
    server.engine.tokenizer.encode = lambda text, **kw: threads.append(threading.current_thread()) or encode(text, **kw)
    server.chat(messages=[{"role": "user", "content": "x" * 30_000}])
    server.chat()
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def _with_logprobs(request):
    entries = [
        TokenLogprob(1, -0.5, "é".encode()[:1], 0, ((1, -0.5, b"\xc3"), (2, -1.5, b"b"))),
        TokenLogprob(3, float("-inf"), b"\xa9", 0, ()),
    ]
    outputs = [
        RequestOutput(request.request_id, 0, "", [1], entries[:1]),
        RequestOutput(request.request_id, 0, "é", [3], entries[1:], FinishReason.LENGTH, usage=Usage(1, 2)),
    ]
    return [[output] for output in outputs]


def test_chat_logprobs_carry_bytes_and_stay_finite(server):
    server.engine.reply = _with_logprobs
    choice = server.chat(logprobs=True, top_logprobs=2).json()["choices"][0]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "\ufffd",
                "logprob": -0.5,
                "bytes": [0xC3],
                "top_logprobs": [
                    {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
                    {"token": "b", "logprob": -1.5, "bytes": [98]},
                ],
            },
            {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xA9], "top_logprobs": []},
        ],
        "refusal": None,
    }
    assert choice["finish_reason"] == "length"


def test_chat_streamed_logprobs_equal_whole_ones(server, events):
    server.engine.reply = _with_logprobs
    whole = server.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    *chunks, _ = events(server.chat(logprobs=True, top_logprobs=2, stream=True).content)
    logprobs = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for item in logprobs if item for entry in item["content"]] == whole


def test_chat_prompt_logprobs_are_outside_the_choices(server):
    scores = [None, TokenLogprob(7, -1.0, b"\x07", 0, (), 9)]

    def reply(request):
        outputs = [
            RequestOutput(request.request_id, i, "x", [1], finish_reason=FinishReason.STOP, prompt_logprobs=scores)
            for i in range(2)
        ]
        outputs[-1].usage = Usage(2, 2)
        return [outputs]

    server.engine.reply = reply
    answer = server.chat(prompt_logprobs=0, n=2).json()
    assert answer["prompt_logprobs"] == [None, {"7": {"logprob": -1.0, "rank": 9, "decoded_token": "\x07"}}]
    assert all("prompt_logprobs" not in choice for choice in answer["choices"])
    assert "prompt_logprobs" not in server.chat(n=2).json()


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("value", ["no", "false", "true", 0, 1, [], {"type": "disabled"}])
def test_chat_template_switch_that_is_no_boolean_is_refused_by_name(server, name, value):
    response = server.chat(chat_template_kwargs={name: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"chat_template_kwargs.{name}"


def test_chat_template_switch_of_null_is_absent(server):
    assert server.chat(chat_template_kwargs={"enable_thinking": None, "x": None}).status_code == 200
    (call,) = server.template.calls
    assert ("enable_thinking" in call, call["x"]) == (False, None)


def test_chat_refusal_part_is_what_the_assistant_said(server):
    answer = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}
    assert server.chat(messages=[USER, answer, USER]).status_code == 200
    assert server.template.calls[0]["messages"][1]["content"] == "I will not."


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"role": None, "content": "x"}, "messages[1].role"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": {}}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "refusal"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": 5}]}, "messages[1].content[0]"),
        ("x", "messages[1]"),
    ],
)
def test_chat_message_of_a_wrong_shape_is_refused_by_name(server, message, param):
    response = server.chat(messages=[USER, message])
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_chat_message_without_content_is_rendered(server, role, content):
    assert server.chat(messages=[USER, {"role": role, "content": content, "name": "n"}, USER]).status_code == 200
