"""Lanes of a WebSocket over a socket and an answer of the test's own."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from starlette.websockets import WebSocketState

from llamafast.errors import InvalidRequestError
from llamafast.server.lanes import LaneConnection, LaneLimits


class FakeSocket:
    """The client's side is `incoming` and `sent`. While `is_reading` is not set, nothing is taken."""

    client_state = WebSocketState.CONNECTED

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict] = asyncio.Queue()
        self.sent: list[dict] = []
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.close_code: int | None = None

    async def receive(self):
        return await self.incoming.get()

    async def send_text(self, text):
        await self.is_reading.wait()
        self.sent.append(json.loads(text))

    async def close(self, code):
        self.close_code = code

    def create(self, **fields):
        self.incoming.put_nowait(
            {"type": "websocket.receive", "text": json.dumps({"type": "response.create", **fields})}
        )

    def leave(self):
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def send(self, **message):
        self.incoming.put_nowait({"type": "websocket.receive", **message})

    async def wait_for(self, number):
        while len(self.sent) < number:
            await asyncio.sleep(0)


async def load(raw):
    try:
        return json.loads(raw), len(raw)
    except json.JSONDecodeError as exc:
        raise InvalidRequestError("it is not valid JSON", code="invalid_json") from exc


class Model:
    """Answers a create with n events of its name, one batch each; notes what runs, and what was given up."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0
        self.given_up: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def answer(self, create):
        name = create.fields["name"]
        if name == "bad":
            raise InvalidRequestError("it is bad", param="name", code="bad_name")
        self.running.append(name)
        self.most = max(self.most, len(self.running))
        i = 0
        try:
            while i < create.fields.get("n", 3):
                await self.go.wait()
                yield [json.dumps({"type": "event", "name": name, "i": i}).encode()]
                await asyncio.sleep(0)
                i += 1
        finally:
            self.running.remove(name)
            if i < create.fields.get("n", 3):
                self.given_up.append(name)


def served(scenario, limits=None):
    async def main():
        socket, model = FakeSocket(), Model()
        connection = LaneConnection(socket, load, model.answer, limits or LaneLimits())
        task = asyncio.create_task(connection.run())
        await asyncio.wait_for(scenario(socket, model, connection), 10)
        socket.leave()
        await asyncio.wait_for(task, 10)
        assert model.running == []
        assert connection.num_active == 0
        return socket, model

    return asyncio.run(main())


def test_lane_answers_one_create_behind_another():
    async def scenario(socket, model, connection):
        socket.create(name="a")
        socket.create(name="b")
        await socket.wait_for(6)

    socket, model = served(scenario)
    assert [event["name"] for event in socket.sent] == ["a"] * 3 + ["b"] * 3
    assert model.most == 1
    assert "stream_id" not in socket.sent[0]


def test_lanes_run_side_by_side_and_never_mix():
    async def scenario(socket, model, connection):
        chosen = random.Random(1)
        for i in range(40):
            socket.create(name=f"r{i}", stream_id=f"lane{chosen.randrange(8)}", n=1 + i % 5)
        await socket.wait_for(sum(1 + i % 5 for i in range(40)))

    socket, model = served(scenario)
    assert model.most == 8
    lanes: dict[str, list[str]] = {}
    for event in socket.sent:
        names = lanes.setdefault(event["stream_id"], [])
        if not names or names[-1] != event["name"]:
            names.append(event["name"])
    numbers = [[int(name[1:]) for name in names] for names in lanes.values()]
    assert all(order == sorted(set(order)) for order in numbers)
    assert sorted(number for order in numbers for number in order) == list(range(40))


def test_no_more_responses_run_at_once_than_allowed():
    async def scenario(socket, model, connection):
        for i in range(6):
            socket.create(name=f"r{i}", stream_id=str(i))
        await socket.wait_for(18)

    assert served(scenario, LaneLimits(max_active=2))[1].most == 2


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"bytes": b"{}"}, "invalid_request"),
        ({"text": "{"}, "invalid_json"),
        ({"text": "[]"}, None),
        ({"text": '{"type": "response.append"}'}, "unknown_event"),
        ({"text": '{"type": "response.create", "stream_id": "a b"}'}, "invalid_stream_id"),
        ({"text": '{"type": "response.create", "stream_id": 1}'}, "invalid_stream_id"),
        ({"text": '{"type": "response.create", "name": "bad"}'}, "bad_name"),
    ],
)
def test_wrong_frame_is_an_error_with_a_status_and_the_next_one_is_answered(message, code):
    async def scenario(socket, model, connection):
        socket.send(**message)
        await socket.wait_for(1)
        socket.create(name="a")
        await socket.wait_for(4)

    socket, _ = served(scenario)
    assert (socket.sent[0]["type"], socket.sent[0]["status"]) == ("error", 400)
    assert socket.sent[0]["error"]["code"] == code


def test_steering_is_refused_by_its_own_event():
    async def scenario(socket, model, connection):
        socket.send(text='{"type": "response.steer", "previous_response_id": "resp_1", "input": []}')
        await socket.wait_for(1)

    (event,) = served(scenario)[0].sent
    assert (event["type"], event["error"]["code"]) == ("response.steer.failed", "steering_not_supported")


def test_acknowledgement_is_ignored():
    async def scenario(socket, model, connection):
        socket.send(text='{"type": "response.processed", "response_id": "resp_1"}')
        socket.create(name="a")
        await socket.wait_for(3)

    assert all(event["type"] == "event" for event in served(scenario)[0].sent)


@pytest.mark.parametrize(
    ("limits", "creates", "code"),
    [
        (
            LaneLimits(max_lanes=2),
            [{"stream_id": "1"}, {"stream_id": "2"}, {}, {"stream_id": "3"}],
            "websocket_stream_limit_reached",
        ),
        (LaneLimits(max_queued=1), [{}, {}, {}], "queue_full"),
    ],
)
def test_create_beyond_a_limit_is_refused(limits, creates, code):
    async def scenario(socket, model, connection):
        model.go.clear()
        for i, fields in enumerate(creates):
            socket.create(name=f"r{i}", **fields)
            await asyncio.sleep(0.01)
        await socket.wait_for(1)
        model.go.set()
        await socket.wait_for(1 + 3 * (len(creates) - 1))

    socket, _ = served(scenario, limits)
    assert socket.sent[0]["error"]["code"] == code


def test_client_that_leaves_ends_what_runs():
    async def scenario(socket, model, connection):
        socket.create(name="a", n=10**9)
        socket.create(name="b", n=10**9, stream_id="other")
        await socket.wait_for(10)

    assert sorted(served(scenario)[1].given_up) == ["a", "b"]


def test_client_that_does_not_read_holds_its_response_and_is_cut_off():
    async def main():
        socket, model = FakeSocket(), Model()
        socket.is_reading.clear()
        limits = LaneLimits(max_unsent_bytes=2000, send_timeout_s=0.05)
        connection = LaneConnection(socket, load, model.answer, limits)
        socket.create(name="a", n=10**9)
        await asyncio.wait_for(connection.run(), 10)
        assert connection._num_unsent_bytes < 3000
        assert socket.close_code == 1008
        assert model.given_up == ["a"]

    asyncio.run(main())


def test_client_that_only_makes_errors_is_cut_off():
    async def main():
        socket, model = FakeSocket(), Model()
        socket.is_reading.clear()
        connection = LaneConnection(socket, load, model.answer, LaneLimits(max_unsent_bytes=2000))
        for _ in range(1000):
            socket.send(text="{")
        await asyncio.wait_for(connection.run(), 10)
        assert socket.close_code == 1008

    asyncio.run(main())


def test_close_refuses_creates_that_wait_and_lets_responses_finish():
    async def main():
        socket, model = FakeSocket(), Model()
        connection = LaneConnection(socket, load, model.answer, LaneLimits())
        task = asyncio.create_task(connection.run())
        model.go.clear()
        socket.create(name="a", n=5)
        socket.create(name="b", n=5)
        while not model.running:
            await asyncio.sleep(0)
        connection.close()
        socket.create(name="c", stream_id="late")
        await socket.wait_for(2)
        model.go.set()
        await asyncio.wait_for(task, 10)
        refused = [(event["error"]["code"], event.get("stream_id")) for event in socket.sent[:2]]
        assert refused == [("shutting_down", None), ("shutting_down", "late")]
        assert [event["name"] for event in socket.sent[2:]] == ["a"] * 5
        assert socket.close_code == 1001

    asyncio.run(main())
