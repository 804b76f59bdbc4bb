"""The Responses API through openai-python, on the built-in model."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing
from typing import Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from llamafast.responses.store import ResponseStore
from llamafast.server.responses.service import failed_by_restart
from tests.e2e.conftest import Server, post

EVENTS = TypeAdapter(ResponseStreamEvent)
FRANCE = "What is the capital of France?"
WEATHER = "What is the weather in Paris and London?"


class City(BaseModel):
    name: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def tools(transcripts):
    (first, *_) = (item["tools"] for item in transcripts if item["messages"][-1]["content"] == WEATHER)
    return [{"type": "function", **tool["function"]} for tool in first]


@pytest.fixture
def asked(model_name, tools):
    return {"model": model_name, "input": WEATHER, "tools": tools, "temperature": 0, "store": False}


def plain(response):
    """A response without what differs between two answers."""
    document = json.loads(response.model_dump_json())
    for item in [document, *document["output"]]:
        for name in ("id", "call_id", "created_at", "completed_at", "parsed_arguments"):
            item.pop(name, None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    document["usage"]["input_tokens_details"] = None
    return document


def cached(response):
    return response.usage.input_tokens_details.cached_tokens


def test_responses_stream_adds_up_to_the_whole_response(client, asked):
    with client.responses.stream(**asked) as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_response()
    assert seen[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "function_call", "function_call"]
    assert plain(final) == plain(client.responses.create(**asked))


@pytest.mark.parametrize(
    "fields", [{}, {"reasoning": {"effort": "none"}}, {"top_logprobs": 2}, {"max_output_tokens": 5}]
)
def test_responses_events_are_strictly_openais(server, asked, fields):
    text = post(server, "responses", **asked, **fields, stream=True).text
    *blocks, end, rest = text.split("\n\n")
    events = [json.loads(block.split("data: ", 1)[1]) for block in blocks]
    for event in events:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    Response.model_validate(events[-1]["response"])
    assert (end, rest) == ("data: [DONE]", "")


def test_responses_parse_gives_the_object(client, model_name):
    parsed = client.responses.parse(
        model=model_name, input=FRANCE, text_format=City, max_output_tokens=200, store=False
    )
    assert isinstance(parsed.output_parsed, City)


def test_responses_custom_tool_takes_text_that_matches_its_regex(client, model_name):
    form = {"type": "grammar", "syntax": "regex", "definition": "[ab]{3}"}
    answer = client.responses.create(
        model=model_name, input="Run it", tools=[{"type": "custom", "name": "sh", "format": form}],
        tool_choice={"type": "custom", "name": "sh"}, reasoning={"effort": "none"}, max_output_tokens=200, store=False,
    )  # fmt: skip
    (call,) = answer.output
    assert (call.type, call.name) == ("custom_tool_call", "sh")
    assert len(call.input) == 3
    assert set(call.input) <= {"a", "b"}


def test_responses_tool_loop_computes_only_what_is_new(client, asked):
    asked = {**asked, "store": True}
    first = client.responses.create(**asked)
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "Sunny"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = client.responses.create(**{**asked, "input": outputs}, previous_response_id=first.id)
    assert cached(second) >= first.usage.total_tokens - 1
    sent_again = [{"role": "user", "content": WEATHER}, *first.to_dict()["output"], *outputs]
    third = client.responses.create(**{**asked, "input": sent_again})
    assert third.usage.input_tokens == second.usage.input_tokens
    assert [item.type for item in client.responses.input_items.list(second.id, order="asc")] == [
        "function_call_output", "function_call_output",
    ]  # fmt: skip


def test_responses_warm_up_is_a_cached_prefix_of_what_follows(server, tools):
    head = {"instructions": "You are a kind and careful assistant. " * 9, "tools": tools, "temperature": 0}
    warm = post(server, "responses", input=[], generate=False, **head).json()
    answer = post(
        server, "responses", input=FRANCE, previous_response_id=warm["id"], max_output_tokens=5, **head
    ).json()
    assert warm["usage"]["output_tokens"] == 0
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] >= warm["usage"]["input_tokens"] - 16


def ended(client, response_id):
    pause = threading.Event()
    for _ in range(400):
        response = client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        pause.wait(0.02)
    raise AssertionError(response)


def test_responses_in_the_background_are_retrieved_cancelled_and_deleted(client, model_name):
    fields = {"model": model_name, "input": FRANCE, "temperature": 0, "background": True}
    made = client.responses.create(**fields)
    assert made.status == "queued"
    assert "Paris" in ended(client, made.id).output_text
    long = client.responses.create(**fields, extra_body={"ignore_eos": True})
    assert client.responses.cancel(long.id).status == "cancelled"
    assert ended(client, long.id).status == "cancelled"
    client.responses.delete(long.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(long.id)


def test_responses_in_the_background_are_streamed_and_resumed(client, model_name):
    stream = client.responses.create(model=model_name, input=FRANCE, temperature=0, background=True, stream=True)
    first = next(iter(stream))
    stream.close()
    rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=0))
    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].type == "response.completed"


def test_responses_of_a_killed_server_are_in_its_file(tmp_path):
    path = tmp_path / "responses.db"
    config = {"model": {"path": "built-in"}, "responses_store": {"path": str(path)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Server(str(tmp_path / "config.json"), "--threads", "1") as server:
        answered = post(server, "responses", input=FRANCE, temperature=0).json()
        running = post(server, "responses", input=FRANCE, ignore_eos=True, background=True).json()
        server.process.kill()
        server.process.wait()
    with closing(ResponseStore(path)) as store:
        assert store.fail_active(failed_by_restart) == 1
        rows = [asyncio.run(store.get(response["id"], "")) for response in (answered, running)]
    assert [json.loads(row.body)["status"] for row in rows] == ["completed", "failed"]
    assert json.loads(rows[0].body) == answered
