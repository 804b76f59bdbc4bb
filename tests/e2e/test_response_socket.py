"""The WebSocket of the Responses API through openai-python, on the built-in model."""

from __future__ import annotations

import json

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.e2e.conftest import Server

EVENTS = TypeAdapter(ResponseStreamEvent)
FRANCE = "What is the capital of France?"
WEATHER = "What is the weather in Paris and London?"
PAUSE_S = 60  # to wait for one frame


class Socket:
    """One WebSocket as the test uses it: creates go out, events come in as dicts."""

    def __init__(self, server) -> None:
        url = f"{server.url.replace('http', 'ws')}/v1/responses"
        self.connection = connect(url, max_size=None, compression=None)

    def __enter__(self):
        self.raw = self.connection.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.connection.__exit__(*exc_info)

    def send(self, **fields):
        document = {"type": "response.create", "input": FRANCE, "store": False, "temperature": 0, **fields}
        self.raw.send(json.dumps(document))

    def event(self):
        return json.loads(self.raw.recv(timeout=PAUSE_S))

    def until_end(self):
        """The events of one response."""
        events = [self.event()]
        while events[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed", "error"):
            events.append(self.event())
        return events

    def answer(self, **fields):
        self.send(**fields)
        return self.until_end()[-1]


@pytest.fixture
def socket(server):
    with Socket(server) as open_socket:
        yield open_socket


# openai-python 3 calls connect() of websockets 17 in a way that is deprecated.
@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")
def test_openai_python_reads_a_response_from_the_socket(client, model_name):
    with client.responses.connect() as connection:
        connection.response.create(model=model_name, input=FRANCE, store=False, temperature=0)
        events = []
        for event in connection:
            events.append(event)
            if event.type == "response.completed":
                break
    assert [event.sequence_number for event in events] == list(range(len(events)))
    over_http = client.responses.create(model=model_name, input=FRANCE, store=False, temperature=0)
    assert events[-1].response.output_text == over_http.output_text


def test_events_of_the_socket_are_valid_stream_events(socket):
    socket.send(stream=True)
    events = [EVENTS.validate_python(event) for event in socket.until_end()]
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_tool_loop_without_the_store_computes_only_what_is_new(socket, transcripts):
    (found, *_) = (item["tools"] for item in transcripts if item["messages"][-1]["content"] == WEATHER)
    tools = [{"type": "function", **tool["function"]} for tool in found]
    first = socket.answer(input=WEATHER, tools=tools)["response"]
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "Sunny"}
        for item in first["output"]
        if item["type"] == "function_call"
    ]
    second = socket.answer(input=outputs, tools=tools, previous_response_id=first["id"])["response"]
    cached = second["usage"]["input_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["total_tokens"] - 1


def test_response_of_another_connection_that_is_not_stored_is_refused(server, socket):
    first = socket.answer()["response"]["id"]
    with Socket(server) as other:
        refused = other.answer(previous_response_id=first)
    assert (refused["type"], refused["status"]) == ("error", 400)
    assert refused["error"]["code"] == "previous_response_not_found"


def test_stored_response_is_continued_on_another_connection(server, socket):
    first = socket.answer(store=True)["response"]["id"]
    with Socket(server) as other:
        assert other.answer(previous_response_id=first)["response"]["status"] == "completed"


def test_two_lanes_have_the_answers_of_one(socket):
    alone = socket.answer()["response"]["output"][-1]["content"][0]["text"]
    for lane in ("a", "b"):
        socket.send(stream_id=lane)
    ends = [socket.until_end()[-1] for _ in range(2)]
    assert {end["stream_id"] for end in ends} == {"a", "b"}
    assert [end["response"]["output"][-1]["content"][0]["text"] for end in ends] == [alone, alone]


@pytest.mark.parametrize(
    ("fields", "param"), [({"background": True, "store": True}, "background"), ({"top_p": 9}, "top_p")]
)
def test_wrong_create_gets_an_error_frame_and_the_socket_goes_on(socket, fields, param):
    refused = socket.answer(**fields, stream_id="a")
    assert (refused["status"], refused["error"]["param"], refused["stream_id"]) == (400, param, "a")
    assert socket.answer()["type"] == "response.completed"


def test_large_frame_gets_an_error_frame(socket):
    refused = socket.answer(input="word " * 400_000)
    assert (refused["status"], refused["error"]["code"]) == (400, "context_length_exceeded")


def test_warm_up_has_no_output_and_can_be_continued(socket):
    warm = socket.answer(generate=False, input=[], instructions="You answer with one word." * 20)["response"]
    assert (warm["status"], warm["output"]) == ("completed", [])
    assert socket.answer(previous_response_id=warm["id"])["type"] == "response.completed"


def test_metrics_count_the_open_socket(server, socket):
    socket.answer()
    assert server.metric("llamafast:websockets") >= 1


def test_disconnect_in_the_middle_ends_the_response(server):
    with Socket(server) as socket:
        socket.send(max_output_tokens=100_000, ignore_eos=True)
        while not socket.event()["type"].endswith(".delta"):
            pass
    assert server.wait_for_metric("llamafast:websocket_lanes_active", lambda value: value == 0) == 0
    assert server.wait_for_metric("vllm:num_requests_running", lambda value: value == 0) == 0


def test_drain_finishes_the_response_refuses_the_waiting_one_and_closes_with_1001():
    with Server("--threads", "1") as server, Socket(server) as socket:
        socket.send(max_output_tokens=200, ignore_eos=True)
        while not socket.event()["type"].endswith(".delta"):
            pass
        socket.send()
        server.process.terminate()
        events = []
        while not events or events[-1]["type"] != "response.incomplete":
            events.append(socket.event())
        assert [event["error"]["code"] for event in events if event["type"] == "error"] == ["shutting_down"]
        with pytest.raises(ConnectionClosed):
            socket.event()
        assert socket.raw.close_code == 1001
        assert server.process.wait(30) == 0


def test_page_of_another_site_cannot_open_the_socket(server):
    url = f"{server.url.replace('http', 'ws')}/v1/responses"
    with pytest.raises(InvalidStatus) as caught:
        connect(url, origin="https://elsewhere.example")
    assert caught.value.response.status_code == 403
    with connect(url, origin=server.url):
        pass
