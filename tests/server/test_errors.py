"""Every refusal: its status, its field, and OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from llamafast.errors import ContextLengthError, EngineDeadError, InvalidRequestError, QueueFullError, ShuttingDownError
from llamafast.request import FinishReason, RequestOutput

USER = {"role": "user", "content": "Hi"}


def error_of(response) -> dict:
    document = response.json()
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "param", "code"}
    return document["error"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [USER, {"role": "user", "content": {"a": 1}}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]},
            "messages[0].content[1]",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"logit_bias": {"ab": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({"logit_bias": "1"}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"model": 5}, "model"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_chat_with_a_wrong_field_is_a_400_naming_it(server, fields, param):
    response = server.chat(**fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert server.engine.streams == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [1.0]}, "prompt"),
        ({"prompt": [[1], ["a"]]}, "prompt"),
        ({"prompt": [1, 1 << 40]}, "prompt"),
        ({"echo": True, "logprobs": 0, "suffix": "x"}, "suffix"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"stream": True, "best_of": 2}, "best_of"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"suffix": 1}, "suffix"),
        ({"suffix": "x", "prompt": ["a", "b"]}, "suffix"),
    ],
)
def test_completion_with_a_wrong_field_is_a_400_naming_it(server, fields, param):
    response = server.complete(**fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "safety_identifier": "s"},
        {"prompt_cache_key": "k", "parallel_tool_calls": True, "reasoning_effort": "low", "logprobs": False},
        {"prediction": {"type": "content", "content": "x"}},
        {"top_logprobs": 0, "no_stop_trim": False, "separate_reasoning": True},
    ],
)
def test_chat_with_a_field_that_asks_for_nothing_is_accepted(make_server, fields):
    assert make_server(strict_fields=True).chat(**fields).status_code == 200


def test_unknown_field_is_counted_and_logged_once(server, caplog):
    with caplog.at_level(logging.WARNING, "llamafast.server"):
        assert server.chat(wished_for=1).status_code == 200
        assert server.complete(wished_for=2).status_code == 200
    assert len([record for record in caplog.records if "wished_for" in record.message]) == 1
    assert 'llamafast:unknown_request_fields_total{field="wished_for"} 2.0' in server.get("/metrics").text


def test_unknown_field_names_are_bounded(server):
    server.chat(**{f"field_{i}": i for i in range(150)})
    text = server.get("/metrics").text
    assert 'field="other"} 50.0' in text
    assert text.count("llamafast:unknown_request_fields_total{") == 101


def test_unknown_field_in_strict_mode_is_a_400(make_server):
    response = make_server(strict_fields=True).chat(wished_for=1)
    assert (response.status_code, error_of(response)["param"]) == (400, "wished_for")


def test_other_model_is_a_404_with_openai_code(server):
    response = server.chat(model="gpt-4o")
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b'{"a": NaN}', b"[" * 5000])
def test_body_that_is_no_json_object_is_a_400(server, body):
    response = server.call("POST", "/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_body_with_a_declared_length_over_the_limit_is_a_413(make_server):
    response = make_server(max_body_bytes=100).complete(prompt="x" * 200)
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert error_of(response)["code"] == "request_too_large"


def test_body_of_chunks_over_the_limit_is_a_413_and_reading_stops(make_server, connect):
    async def go():
        connection = connect(make_server(max_body_bytes=100).app, "/v1/completions", [b"x" * 60] * 50)
        await connection.task
        return connection

    connection = asyncio.run(go())
    assert connection.sent[0]["status"] == 413
    assert orjson.loads(connection.bodies[0])["error"]["code"] == "request_too_large"
    assert connection.num_reads == 2


def test_body_at_the_limit_is_taken(make_server):
    body = orjson.dumps({"prompt": "x"})
    server = make_server(max_body_bytes=len(body))
    assert server.call("POST", "/v1/completions", content=body).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/completions", 405)])
def test_unknown_route_or_method_has_openai_shape(server, method, path, status):
    response = server.call(method, path)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


def test_wrong_method_names_the_right_one(server):
    assert server.get("/v1/completions").headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry_after"),
    [
        (InvalidRequestError("no", param="n"), 400, None, None),
        (ContextLengthError("long", param="messages"), 400, "context_length_exceeded", None),
        (QueueFullError("full", retry_after=7), 503, "queue_full", "7"),
        (ShuttingDownError("bye"), 503, "shutting_down", "1"),
        (EngineDeadError("dead"), 503, "engine_dead", "1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusal_by_the_engine_comes_before_the_200(server, refusal, status, code, retry_after, stream):
    server.engine.refuse = lambda request: refusal
    response = server.chat(stream=stream)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert response.headers.get("retry-after") == retry_after


def test_refusal_by_the_engine_names_the_field_as_the_api_does(server):
    def refuse(request):
        param = "prompt" if request.params.max_tokens is None else "max_tokens"
        return InvalidRequestError("out of range", param=param)

    server.engine.refuse = refuse
    assert error_of(server.chat())["param"] == "messages"
    assert error_of(server.chat(max_completion_tokens=-1))["param"] == "max_completion_tokens"
    assert error_of(server.chat(max_tokens=-1))["param"] == "max_tokens"


def test_bug_is_a_500_that_shows_nothing_of_its_inside(server):
    server.engine.refuse = lambda request: RuntimeError("secret path")
    response = server.chat()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"


def _fail(error):
    def reply(request):
        return [
            [RequestOutput(request.request_id, 0, "Hel", [1])],
            [RequestOutput(request.request_id, 0, "", [], finish_reason=FinishReason.ERROR, error=error)],
        ]

    return reply


def test_engine_error_in_a_whole_answer_has_its_status(server):
    server.engine.reply = _fail(EngineDeadError("the engine is dead"))
    response = server.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "engine_dead")


@pytest.mark.parametrize("path", ["complete", "chat"])
def test_engine_error_in_a_stream_is_the_last_event(server, events, path):
    server.engine.reply = _fail(EngineDeadError("the engine is dead"))
    response = getattr(server, path)(stream=True)
    assert response.status_code == 200
    *_, last = events(response.content)
    assert last["error"]["code"] == "engine_dead"


def test_bug_in_a_stream_shows_nothing_of_its_inside(server, events):
    server.engine.reply = _fail(ValueError("secret path"))
    *_, last = events(server.chat(stream=True).content)
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in last["error"]["message"]


def test_abort_by_the_server_is_an_error_event(server, events):
    server.engine.reply = lambda request: [
        [RequestOutput(request.request_id, 0, "", [], finish_reason=FinishReason.ABORT)]
    ]
    *_, last = events(server.chat(stream=True).content)
    assert last["error"]["type"] == "server_error"
    assert server.chat().status_code == 503
