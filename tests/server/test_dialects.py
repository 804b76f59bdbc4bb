"""A second dialect through the same delivery: streamed, whole, as lines, and with errors before and inside a stream."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest
from fastapi import FastAPI, Request

from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.errors import EngineDeadError, InvalidRequestError, QueueFullError
from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.server.answers.openai import OPENAI
from llamafast.server.chat.choice import ReadOptions
from llamafast.server.delivery import AnswerStream, streamed_answer, whole_answer
from llamafast.server.errors import dialect_of, install_error_handlers
from tests.server.block_dialect import BLOCKS, LINES, BlockFormatter
from tests.server.conftest import Connection, FakeStream

PATH = "/v1/blocks"
DIALECTS = {"": OPENAI, "/v1/blocks": BLOCKS}
DEAD = EngineDeadError("the engine is dead")
STARTED = ["message_start", "content_block_start", "content_block_delta"]
BLOCK_ENDS = ["content_block_stop", "message_delta", "message_stop"]


def out(text: str, finish: FinishReason | None = None, error: Exception | None = None) -> RequestOutput:
    usage = Usage(5, 3, 2) if finish else None
    return RequestOutput("r", 0, text, [1], finish_reason=finish, usage=usage, error=error)


THOUGHT = [[out("so")], [out("</think>\n\nHel")], [out("lo", FinishReason.STOP)]]
BROKEN = [[out("so")], [out("", FinishReason.ERROR, DEAD)]]


def formatter(framing=None) -> BlockFormatter:
    return BlockFormatter(ReadOptions(lambda: Qwen3Xml().parser("<think>", None)), framing)


def stream_of(deliveries) -> FakeStream:
    stream = FakeStream()
    for delivery in deliveries:
        stream.push(delivery)
    stream.push(None)
    return stream


def app_of(deliveries=(), refusal: Exception | None = None) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app, DIALECTS)

    @app.post(PATH, response_model=None)
    async def blocks(request: Request):
        if refusal is not None:
            raise refusal
        stream = stream_of(deliveries)
        if (await request.body()) == b"stream":
            return streamed_answer(stream, formatter(), 15.0)
        return await whole_answer(request, stream, formatter())

    return app


def call(app: FastAPI, body: bytes = b"", path: str = PATH, method: str = "POST") -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=body)

    return asyncio.run(go())


def events_of(stream: bytes) -> list[dict]:
    """The documents of named events. The name of each event is the type in its document."""
    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == ""
    documents = []
    for block in blocks:
        name, data = block.split("\n")
        documents.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {documents[-1]['type']}"
    return documents


def lines_of(deliveries) -> list[dict]:
    async def go() -> list[bytes]:
        return [
            line async for piece in AnswerStream(stream_of(deliveries), formatter(LINES)) for line in piece.splitlines()
        ]

    return [orjson.loads(line) for line in asyncio.run(go())]


def test_other_dialect_streams_its_own_events_and_no_end_mark():
    response = call(app_of(THOUGHT), b"stream")
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event["type"] for event in events_of(response.content)] == [
        "message_start", *block, *block[:1], *block[1:2] * 2, *BLOCK_ENDS
    ]  # fmt: skip


def test_other_dialect_renders_usage_under_its_own_names():
    usage = call(app_of(THOUGHT)).json()["usage"]
    assert usage == {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 3}


def test_other_dialect_whole_answer_is_the_sum_of_its_stream():
    answer = call(app_of(THOUGHT)).json()
    events = events_of(call(app_of(THOUGHT), b"stream").content)
    texts = ["", ""]
    for event in events:
        if event["type"] == "content_block_delta":
            texts[event["index"]] += event["delta"]
    assert [block["text"] for block in answer["content"]] == texts == ["so", "Hello"]
    assert {name: answer[name] for name in ("stop_reason", "usage")}.items() <= events[-2].items()


def test_other_dialect_as_lines_has_the_documents_of_its_events():
    assert lines_of(THOUGHT) == events_of(call(app_of(THOUGHT), b"stream").content)


@pytest.mark.parametrize(
    ("deliveries", "events"), [(BROKEN, [*STARTED, "content_block_stop"]), ([[out("so")], DEAD], STARTED)]
)
def test_other_dialect_error_inside_a_stream_has_its_shape(deliveries, events):
    *before, last = events_of(call(app_of(deliveries), b"stream").content)
    assert [event["type"] for event in before] == events
    assert last == {"type": "error", "error": {"type": "overloaded_error", "message": "the engine is dead"}}


def test_other_dialect_error_inside_lines_has_its_shape():
    assert [document["type"] for document in lines_of(BROKEN)] == [*STARTED, "content_block_stop", "error"]


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (InvalidRequestError("no", param="n"), 400, "invalid_request_error"),
        (QueueFullError("full", retry_after=7), 529, "overloaded_error"),
        (RuntimeError("secret"), 500, "api_error"),
    ],
)
def test_other_dialect_error_before_a_stream_has_its_shape_and_status(refusal, status, kind):
    response = call(app_of(refusal=refusal), b"stream")
    assert (response.status_code, response.json()["type"], response.json()["error"]["type"]) == (status, "error", kind)
    assert "secret" not in response.text


@pytest.mark.parametrize(("method", "path", "status"), [("POST", PATH + "/nope", 404), ("GET", PATH, 405)])
def test_unknown_route_or_method_under_its_path_has_its_shape(method, path, status):
    response = call(app_of(), path=path, method=method)
    assert (response.status_code, response.json()["type"]) == (status, "error")


def test_other_dialect_error_of_a_whole_answer_has_its_shape_and_status():
    response = call(app_of(BROKEN))
    assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")


def test_other_dialect_keepalive_is_its_own_event():
    async def go() -> list[bytes]:
        app = FastAPI()
        stream = FakeStream()
        app.add_api_route(PATH, lambda: streamed_answer(stream, formatter(), 0.01), methods=["POST"])
        connection = Connection(app, PATH, [b""])
        await connection.until(3)
        stream.push(None)
        await connection.task
        return connection.bodies

    assert events_of(asyncio.run(go())[1]) == [{"type": "ping"}]


@pytest.mark.parametrize(
    ("path", "dialect"), [("/v1/blocks", BLOCKS), ("/v1/blocks/count", BLOCKS), ("/v1/chat", OPENAI), ("*", OPENAI)]
)
def test_unknown_path_gets_the_dialect_of_its_api(path, dialect):
    assert dialect_of(path, DIALECTS) is dialect
