"""The events of a response: their order, their numbers, and the object that they add up to."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Reasoning
from llamafast.request import FinishReason
from llamafast.responses.tools import ToolOrigin
from llamafast.server.answers.items import ItemReader
from llamafast.server.answers.response_events import ResponseEvents

STRICT = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 5,
}
ORIGINS = {
    "get": ToolOrigin("function", "get"),
    "mcp__find": ToolOrigin("function", "find", "mcp"),
    "sh": ToolOrigin("custom", "sh"),
}
HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None, "instructions": None,
        "metadata": {}, "temperature": 1.0, "top_p": 1.0, "usage": None, "completed_at": None}  # fmt: skip


def call(index: int, name: str, *fragments: str, complete: bool = True) -> list:
    return [
        CallStart(index, name, f"call_{index}"),
        *(CallArguments(index, f) for f in fragments),
        CallEnd(index, complete),
    ]


def written(*pieces, reason: str = "stop", **options):
    writer = ResponseEvents(dict(HEAD), ORIGINS, **options)
    items = ItemReader()
    frames = writer.start()
    for piece in pieces:
        frames += writer.read(items.read(piece))
    frames += writer.read(items.finish(FinishReason(reason)))
    writer.finish(USAGE, 2, is_cut=reason == "length")
    frames.append(writer.last())
    events = [json.loads(data) for _, data in frames]
    assert [event["type"].encode() for event in events] == [name for name, _ in frames]
    return events, writer.response()


def names(events) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


WHOLE = [
    [Reasoning("Let me"), Reasoning(" think.")],
    [Content("Hello", 0), Content(" you", 5)],
    call(0, "get", '{"a":', "1}"),
    call(1, "mcp__find"),
    call(2, "sh", '{"input": "l', 's"}'),
]


def test_events_are_openais_and_numbered_without_gaps():
    events, response = written(*WHOLE)
    for event in events:
        STRICT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    Response.model_validate(response)
    assert events[-1]["response"] == response


def test_events_of_a_message_come_in_order():
    events, _ = written([Content("Hi", 0)])
    assert names(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip


def test_items_keep_their_ids_and_places_from_their_first_event():
    events, response = written(*WHOLE)
    for i, item in enumerate(response["output"]):
        own = [event for event in events if event.get("output_index") == i]
        assert {event.get("item_id", event.get("item", {}).get("id")) for event in own} == {item["id"]}
        assert own[-1]["item"] == item


def test_calls_have_the_clients_names():
    _, response = written(*WHOLE)
    _, _, get, find, shell = response["output"]
    assert (get["name"], get["arguments"], get["call_id"]) == ("get", '{"a":1}', "call_0")
    assert (find["name"], find["namespace"], find["arguments"]) == ("find", "mcp", "{}")
    assert (shell["type"], shell["input"]) == ("custom_tool_call", "ls")


def test_deltas_add_up_to_what_is_done():
    events, _ = written(*WHOLE)
    sums: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            sums[event["item_id"]] = sums.get(event["item_id"], "") + event["delta"]
    done = {event["item_id"]: event.get("text", event.get("arguments", event.get("input")))
            for event in events if re.search(r"(text|arguments|input)\.done$", event["type"])}  # fmt: skip
    assert {key: text for key, text in done.items() if text != "{}"} == sums


def test_answer_without_anything_is_one_empty_message():
    _, response = written()
    assert response["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("piece", "last"),
    [
        ([Reasoning("Hm")], "reasoning"),
        ([Content("Hi", 0)], "message"),
        (call(0, "get", "{", complete=False), "function_call"),
    ],
)
def test_answer_that_is_cut_ends_in_an_incomplete_item(piece, last):
    events, response = written(piece, reason="length")
    assert names(events)[-1] == "incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [(item["type"], item["status"]) for item in response["output"]] == [(last, "incomplete")]


def test_answer_that_is_cut_behind_an_item_leaves_it_completed():
    _, response = written(call(0, "get", "{}"), reason="length")
    assert response["output"][0]["status"] == "completed"


def test_failure_is_the_last_event():
    writer = ResponseEvents(dict(HEAD), ORIGINS)
    items = ItemReader()
    writer.start()
    writer.read(items.read([Content("Hi", 0)]))
    writer.read(items.finish(FinishReason.ERROR))
    writer.fail("server_error", "it broke")
    last = STRICT.validate_python(json.loads(writer.last()[1]))
    assert (last.type, last.response.status, last.response.error.message) == ("response.failed", "failed", "it broke")
    assert last.response.output[0].status == "incomplete"


def test_reasoning_is_sealed_where_it_is_asked_for():
    _, response = written([Reasoning("Hm")], seal=str.upper)
    assert response["output"][0]["encrypted_content"] == "HM"


def test_queued_response_says_so_first():
    writer = ResponseEvents(dict(HEAD), ORIGINS)
    statuses = [json.loads(data)["response"]["status"] for _, data in writer.start(is_queued=True)]
    assert statuses == ["queued", "queued", "in_progress"]


ATOMS = st.lists(
    st.sampled_from([Reasoning("a"), Reasoning(" b"), Content("c", 0), Content(" ", 0), *call(0, "get", "{")[:0]]),
    max_size=12,
)


def anonymous(value: object) -> object:
    text = json.dumps(value)
    for i, found in enumerate(dict.fromkeys(re.findall(r"(?:msg|rs|fc|ctc)_[0-9a-f]{32}", text))):
        text = text.replace(found, f"id{i}")
    return json.loads(text)


@settings(max_examples=60, deadline=None)
@given(atoms=ATOMS, cut=st.integers(0, 12), reason=st.sampled_from(["stop", "length"]))
def test_deliveries_cut_anywhere_give_the_same_response(atoms, cut, reason):
    at_once, cut_up = written(atoms, reason=reason)[1], written(atoms[:cut], atoms[cut:], reason=reason)[1]
    assert anonymous(at_once) == anonymous(cut_up)
