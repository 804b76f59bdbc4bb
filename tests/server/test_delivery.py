"""Streams message by message: headers, coalescing, keep-alive, and clients that leave."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from llamafast.errors import EngineDeadError
from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.server.delivery import MergedOutputs
from tests.server.conftest import FakeStream

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"


def body(**fields) -> bytes:
    return orjson.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields})


def out(text: str, index: int = 0, finish: FinishReason | None = None) -> RequestOutput:
    return RequestOutput("r", index, text, [1], finish_reason=finish, usage=Usage(1, 1) if finish else None)


async def started(server, connection):
    """The engine's stream, once the headers are out."""
    await connection.until(1)
    return server.engine.streams[0]


@pytest.fixture
def held(server):
    """A server with an engine that gives no outputs until the test pushes them."""
    server.engine.reply = None
    return server


def test_stream_headers_come_before_any_token(held, connect):
    async def go():
        connection = connect(held.app, CHAT, [body(stream=True)])
        stream = await started(held, connection)
        sent = list(connection.sent)
        stream.push(None)
        await connection.task
        return sent

    (start,) = asyncio.run(go())
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert (b"cache-control", b"no-cache") in start["headers"]
    assert b"content-length" not in dict(start["headers"])


def test_stream_sends_one_message_per_delivery_and_one_event_per_output(held, connect, events):
    async def go():
        connection = connect(held.app, CHAT, [body(stream=True, n=2)])
        stream = await started(held, connection)
        stream.push([out("a"), out("b", 1), out("c")])
        await connection.until(2)
        stream.push([out("d"), out("", 1, FinishReason.STOP), out("", 0, FinishReason.STOP)])
        stream.push(None)
        await connection.task
        return connection.bodies

    first, second, last = asyncio.run(go())
    assert [chunk["choices"][0]["delta"].get("content") for chunk in events(first)] == ["", "a", "", "b", "c"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in events(second)] == [None, "stop", "stop"]
    assert last == DONE


def test_stream_skips_outputs_without_text(held, connect):
    async def go():
        connection = connect(held.app, "/v1/completions", [orjson.dumps({"prompt": "x", "stream": True})])
        stream = await started(held, connection)
        stream.push([out("")])
        stream.push([out("é", 0, FinishReason.STOP)])
        stream.push(None)
        await connection.task
        return connection.bodies

    first, last = asyncio.run(go())
    assert first.count(b"data: ") == 2
    assert last == DONE


def test_stream_sends_keepalives_while_nothing_comes(make_server, connect):
    async def go():
        server = make_server(keepalive_s=0.01)
        server.engine.reply = None
        connection = connect(server.app, CHAT, [body(stream=True)])
        stream = await started(server, connection)
        await connection.until(3)
        stream.push([out("a", 0, FinishReason.STOP)])
        stream.push(None)
        await connection.task
        return connection.bodies

    bodies = asyncio.run(go())
    assert bodies[:2] == [b": keep-alive\n\n"] * 2
    assert b'"content":"a"' in b"".join(bodies)
    assert bodies[-1] == DONE


def test_stream_that_flows_gets_no_keepalive(server, connect):
    async def go():
        connection = connect(server.app, CHAT, [body(stream=True)])
        await connection.task
        return b"".join(connection.bodies)

    assert b"keep-alive" not in asyncio.run(go())


def test_stream_whose_client_leaves_is_aborted(held, connect):
    async def go():
        connection = connect(held.app, CHAT, [body(stream=True)])
        stream = await started(held, connection)
        stream.push([out("a")])
        await connection.until(2)
        connection.gone.set()
        await asyncio.wait_for(connection.task, 5)
        return stream.closed.is_set(), connection.bodies

    closed, bodies = asyncio.run(go())
    assert closed
    assert DONE not in bodies


def test_whole_answer_whose_client_leaves_is_aborted(held, connect):
    async def go():
        connection = connect(held.app, CHAT, [body()])
        while not held.engine.streams:
            await asyncio.sleep(0)
        connection.gone.set()
        await asyncio.wait_for(connection.task, 5)
        return held.engine.streams[0].closed.is_set()

    assert asyncio.run(go())


def test_many_prompts_whose_client_leaves_are_all_aborted(held, connect):
    async def go():
        connection = connect(held.app, "/v1/completions", [orjson.dumps({"prompt": ["a", "b"], "stream": True})])
        await connection.until(1)
        connection.gone.set()
        await asyncio.wait_for(connection.task, 5)
        return [stream.closed.is_set() for stream in held.engine.streams]

    assert asyncio.run(go()) == [True, True]


class DroppedStream(FakeStream):
    """Ends like an engine's stream: when it is dropped."""

    def __init__(self, ended: list[str], name: str) -> None:
        super().__init__()
        self.ended, self.name = ended, name

    async def aclose(self) -> None:
        self.ended.append(self.name)

    def __del__(self) -> None:
        self.ended.append(self.name)


async def turns_of_the_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_many_prompts_dropped_unread_end_all_streams():
    async def go():
        ended = []
        merged = MergedOutputs([DroppedStream(ended, "a"), DroppedStream(ended, "b")], 1)
        await turns_of_the_loop()
        del merged
        await turns_of_the_loop()
        return set(ended)

    assert asyncio.run(go()) == {"a", "b"}


def test_many_prompts_dropped_while_read_end_all_streams():
    async def go():
        ended = []
        streams = [DroppedStream(ended, "a"), DroppedStream(ended, "b")]
        streams[1].push([out("text")])
        reader = aiter(MergedOutputs(streams, 1))
        del streams
        first = await anext(reader)
        assert not ended
        del reader
        await turns_of_the_loop()
        return first[0].index, set(ended)

    assert asyncio.run(go()) == (1, {"a", "b"})


def test_body_whose_client_leaves_midway_starts_nothing(held, connect):
    async def go():
        connection = connect(held.app, CHAT, [b'{"mess'], more=True)
        connection.gone.set()
        await asyncio.wait_for(connection.task, 5)
        return held.engine.streams

    assert asyncio.run(go()) == []


def test_server_task_that_is_cancelled_aborts_the_stream(held, connect):
    async def go():
        connection = connect(held.app, CHAT, [body(stream=True)])
        stream = await started(held, connection)
        connection.task.cancel()
        await asyncio.gather(connection.task, return_exceptions=True)
        return connection.task.cancelled(), stream.closed.is_set()

    assert asyncio.run(go()) == (True, True)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_stream_whose_iterator_raises_ends_in_an_error_event(held, connect, events, path):
    async def go():
        fields = {"prompt": ["a", "b"]} if path != CHAT else {"messages": [{"role": "user", "content": "Hi"}]}
        connection = connect(held.app, path, [orjson.dumps({"stream": True, **fields})])
        stream = await started(held, connection)
        stream.push(EngineDeadError("the engine is dead"))
        held.engine.streams[-1].push(None)
        await connection.task
        return connection.sent

    *_, last = asyncio.run(go())
    assert last["more_body"] is False
    assert events(last["body"])[-1]["error"]["code"] == "engine_dead"
