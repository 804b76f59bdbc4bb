"""A field at its limit is accepted, above it gets a 400 that names it; large bodies are prepared in threads."""

from __future__ import annotations

import asyncio
import json
import threading

import orjson
import pytest

from llamafast import caps
from llamafast.engine.validation import Limits, check_request
from llamafast.errors import InvalidRequestError
from llamafast.server.receiving.body import check_shape
from llamafast.server.receiving.preparation import Preparation
from tests.largest_bodies import CALL, tool

USER = {"role": "user", "content": ""}
PART = {"type": "text", "text": ""}


@pytest.fixture
def big(make_server):
    """A server with a large context and the validation of the real engine."""
    server = make_server()
    server.engine.max_seq_len = 100_000
    limits = Limits(server.engine.tokenizer.n_vocab, 256, 100_000)

    def refuse(request) -> InvalidRequestError | None:
        try:
            check_request(request, limits)
        except InvalidRequestError as error:
            return error
        return None

    server.engine.refuse = refuse
    return server


def body(field: str, value: object, **fields) -> tuple[str, dict]:
    chat = field in ("messages", "tools", "functions")
    rest = {} if field == "messages" else {"messages": [USER]} if chat else {} if field == "prompt" else {"prompt": "a"}
    return f"/v1/{'chat/' if chat else ''}completions", {**rest, **fields, field: value}


def call(arguments: str) -> dict:
    return {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": arguments}}]}


CAPS = {
    "stop strings": ("stop", lambda n: ["a"] * n, caps.MAX_STOP_STRINGS, {}),
    "stop characters": ("stop", lambda n: ["a" * 2048] * (n // 2048) + ["a"] * (n % 2048), caps.MAX_ALL_STOP_CHARS, {}),
    "breakers": ("dry_sequence_breakers", lambda n: ["a" * 32] * 8 + ["a"] * (n % 32), caps.MAX_ALL_BREAKER_CHARS, {}),
    "bad words": ("bad_words", lambda n: [" the"] * n, caps.MAX_BAD_WORDS // 2, {}),
    "bias": ("logit_bias", lambda n: [[i % 256, 1] for i in range(n)], caps.MAX_BIAS_PAIRS, {}),
    "stop ids": ("stop_token_ids", lambda n: [5] * n, 300, {}),
    "allowed ids": ("allowed_token_ids", lambda n: [5] * n, 300, {}),
    "entries of all choices": ("logit_bias", lambda n: [[5, 1]] * (n // 128), caps.MAX_SAMPLER_ENTRIES, {"n": 128}),
    "entries of all prompts": (
        "logit_bias", lambda n: [[5, 1]] * (n // 256), caps.MAX_SAMPLER_ENTRIES, {"n": 4, "prompt": ["a"] * 64},
    ),
    "prompts": ("prompt", lambda n: ["a"] * n, caps.MAX_PROMPTS, {}),
    "messages": ("messages", lambda n: [USER] * n, caps.MAX_MESSAGES, {}),
    "parts": ("messages", lambda n: [{"role": "user", "content": [PART] * n}], caps.MAX_PARTS, {}),
    "tools": ("tools", lambda n: [tool(i) for i in range(n)], caps.MAX_TOOLS, {}),
    "functions": ("functions", lambda n: [tool(i)["function"] for i in range(n)], caps.MAX_TOOLS, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPS)
def test_field_at_its_cap_is_taken_and_above_it_is_a_400_naming_it(big, name):
    field, make, cap, fields = CAPS[name]
    path, taken = body(field, make(cap), **fields)
    assert big.post(path, taken).status_code == 200
    step = {"entries of all choices": 128, "entries of all prompts": 256}.get(name, 1)
    answer = big.post(path, body(field, make(cap + step), **fields)[1])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bad_words", ["a" * (caps.MAX_ALL_BAD_WORD_CHARS + 1)]),
        ("bad_words", ["a" * 200] * (caps.MAX_ALL_BAD_WORD_TOKENS // 200 + 1)),
        ("logit_bias", {str(i % 256) + " " * (i // 256): 1 for i in range(caps.MAX_BIAS_PAIRS + 1)}),
        ("messages", [{"role": "assistant", "tool_calls": [CALL] * (caps.MAX_TOOL_CALLS + 1)}]),
        ("tools", [tool(description="a" * caps.MAX_TOOL_BYTES)]),
        ("functions", [tool(description="a" * caps.MAX_TOOL_BYTES)["function"]]),
        ("prompt", [1] * 100_001),
        ("prompt", "a" * 500_000),
    ],
)
def test_field_whose_parts_are_too_much_together_is_a_400_naming_it(big, field, value):
    path, document = body(field, value)
    answer = big.post(path, document)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("size", [100, caps.MAX_ARGUMENTS_WEIGHT - 100, caps.MAX_ARGUMENTS_WEIGHT])
def test_arguments_of_too_many_values_are_a_400_naming_them(big, size):
    answer = big.post("/v1/chat/completions", {"messages": [call(json.dumps({"a": [0] * size})), USER]})
    if size < caps.MAX_ARGUMENTS_WEIGHT:
        assert answer.status_code == 200
    else:
        assert answer.json()["error"]["param"] == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"prompt":' + b"[" * (caps.MAX_JSON_DEPTH + 1), None),
        (b"{" + b",".join(b'"%d":0' % i for i in range(caps.MAX_FIELDS + 1)) + b"}", None),
        (b'{"prompt":"a","x":[' + b"0," * caps.MAX_JSON_WEIGHT + b"0]}", "x"),
    ],
)
def test_shape_of_a_body_beyond_the_caps_is_refused_before_it_is_read(raw, param):
    with pytest.raises(InvalidRequestError) as caught:
        check_shape(raw)
    assert caught.value.param == param


def test_shape_of_a_body_at_the_caps_is_taken():
    check_shape(b'{"prompt":' + b"[" * (caps.MAX_JSON_DEPTH - 1))
    check_shape(b"{" + b",".join(b'"%d":0' % i for i in range(caps.MAX_FIELDS)) + b"}")
    check_shape(b'{"prompt":[' + b"0," * 1_100_000 + b"0]}")


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/completions", {"prompt": "a" * 30_000}),
        ("/v1/completions", {"prompt": "a", "x": "a" * 30_000}),
        ("/v1/completions", {"prompt": "a", "bad_words": ["a"] * 500}),
        ("/v1/chat/completions", {"messages": [USER] * 30}),
        ("/v1/chat/completions", {"messages": [{**USER, "reasoning_content": "a" * 30_000}, USER]}),
        ("/v1/chat/completions", {"messages": [call(json.dumps({"a": "a" * 30_000})), USER]}),
        ("/v1/chat/completions", {"messages": [USER], "chat_template_kwargs": {"x": "a" * 30_000}}),
    ],
)
def test_large_body_is_read_and_tokenized_in_a_thread_whatever_is_large(big, monkeypatch, path, document):
    threads = set()
    for module, name in ((orjson, "loads"), (big.engine.tokenizer, "encode")):
        work = getattr(module, name)
        seen = lambda *args, work=work, **kw: threads.add(threading.current_thread()) or work(*args, **kw)  # noqa: E731
        monkeypatch.setattr(module, name, seen)
    asyncio.run(exchange(big, path, document))
    assert threads
    assert threading.main_thread() not in threads


async def exchange(server, path: str, document: dict) -> None:
    sent = []

    async def receive() -> dict:
        if not sent:
            sent.append(document)
            return {"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}
        await asyncio.Event().wait()
        return {}

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await server.app(scope, receive, send)
    assert sent[1]["status"] == 200


def test_long_name_of_a_client_is_cut_in_the_error(big):
    answer = big.complete(model="a" * 100_000)
    assert answer.status_code == 404
    assert len(answer.content) < 10_000


def test_client_gone_while_its_body_is_prepared_submits_nothing(big, connect):
    begun, go_on = threading.Event(), threading.Event()
    encode = big.engine.tokenizer.encode

    def slow(text: str, **options) -> list[int]:
        begun.set()
        go_on.wait(5)
        return encode(text, **options)

    async def run() -> list[dict]:
        big.engine.tokenizer.encode = slow
        connection = connect(big.app, "/v1/completions", [json.dumps({"prompt": ["a" * 30_000] * 2}).encode()])
        assert await asyncio.to_thread(begun.wait, 5)
        connection.gone.set()
        await connection.task
        go_on.set()
        return connection.sent

    assert asyncio.run(run())[0]["status"] == 499
    assert big.engine.requests == []


def test_bodies_too_large_together_get_503_with_retry_after(make_server, connect):
    server = make_server(max_body_bytes=1000)

    async def run() -> list[int]:
        large = b'{"prompt":"' + b"a" * 900
        connections = [connect(server.app, "/v1/completions", [large], more=True) for _ in range(9)]
        await connections[-1].until(1)
        statuses = [connection.sent[0]["status"] for connection in connections if connection.sent]
        for connection in connections:
            connection.gone.set()
            await connection.task
        return statuses

    assert asyncio.run(run()) == [503]
    assert server.complete().status_code == 200


def test_preparation_of_an_app_ends_with_its_lifespan(server):
    async def run() -> Preparation:
        async with server.app.router.lifespan_context(server.app):
            await server.app.state.preparation.run(asyncio.Event().wait, 0, int)
        return server.app.state.preparation

    assert asyncio.run(run()).has_ended(5)


@pytest.mark.parametrize("bias", [{"a" * 5000: 1}, [["a" * 5000, 1]], {f"{i:04}" * 1000: 1 for i in range(70)}])
def test_bias_of_a_text_longer_than_any_token_is_refused_untokenized(big, monkeypatch, bias):
    monkeypatch.setattr(type(big.engine.tokenizer), "encode", lambda *args, **options: 1 / 0)
    answer = big.post("/v1/completions", {"prompt": [1], "logit_bias": bias})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "logit_bias"
