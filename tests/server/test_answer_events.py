"""Random parser events give equal answers: streamed, whole, and as items."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, ParsedMessage, Reasoning
from llamafast.chat.format import StreamParser
from llamafast.request import FinishReason, MissReason, RequestOutput, TokenLogprob, Usage
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.items import ItemDelta, ItemDone, ItemKind, ItemReader, ItemStarted, ItemStatus
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.chat.choice import ChoiceReader, ReadOptions
from tests.server.block_dialect import BlockFormatter

HEADER = AnswerHeader("id-1", 5, "model", "fp_1")
TEXT = st.text(st.sampled_from('ab \n"é😀'), min_size=1, max_size=4)


class ScriptedParser(StreamParser):
    """A parser with scripted events: the n-th call returns the n-th list, finish() returns the rest."""

    def __init__(self, script: list[list[Event]]) -> None:
        self._script = deepcopy(script)

    def feed(self, text: str) -> list[Event]:
        return self._script.pop(0)

    def finish(self) -> list[Event]:
        return [event for events in self._script for event in events]


@dataclass
class Script:
    """One choice: its outputs, and the parser events of each. events: all of them."""

    outputs: list[RequestOutput] = field(default_factory=list)
    by_output: list[list[Event]] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for events in deepcopy(self.by_output) for event in events]


@st.composite
def event_lists(draw) -> list[Event]:
    """Events of items, one after another, as parsers yield them. Only content has a position."""
    events: list[Event] = []
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from(["content", "reasoning", "call"]), max_size=5)):
        texts = draw(st.lists(TEXT, min_size=1, max_size=3))
        if kind == "content":
            events += [Content(text, 0) for text in texts]
        elif kind == "reasoning":
            events += [Reasoning(text) for text in texts]
        else:
            events.append(CallStart(num_calls, texts[0], f"call_{num_calls}"))
            events += [CallArguments(num_calls, text) for text in texts[1:]]
            events.append(CallEnd(num_calls, draw(st.booleans())))
            num_calls += 1
    return events


def text_of(event: Event) -> str:
    if isinstance(event, Content | Reasoning):
        return event.text
    return event.name if isinstance(event, CallStart) else event.fragment if isinstance(event, CallArguments) else "|"


@st.composite
def scripts(draw, index: int = 0) -> Script:
    """One token per event, each with its logprob; an event may be held back until a later token."""
    script, held, offset = Script(), list[Event](), 0
    for token_id, event in enumerate(draw(event_lists())):
        text = text_of(event)
        if isinstance(event, Content):
            event.start = offset
        logprobs = [TokenLogprob(token_id, -0.25, text.encode(), offset)]
        script.outputs.append(RequestOutput("r", index, text, [token_id], logprobs))
        offset += len(text)
        held.append(event)
        is_shown = draw(st.booleans())
        script.by_output.append(held if is_shown else [])
        held = [] if is_shown else held
    finish = draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    last = RequestOutput("r", index, "", [], finish_reason=finish)
    if draw(st.booleans()):  # a token without text, as control tokens are
        last.token_ids, last.logprobs = [99], [TokenLogprob(99, -0.5, b"", offset)]
    script.outputs.append(last)
    script.by_output.append(held)
    return script


@st.composite
def answers(draw) -> tuple[list[Script], list[list[RequestOutput]]]:
    """Some choices, and their outputs interleaved and cut into deliveries at random."""
    choices = [draw(scripts(index)) for index in range(draw(st.integers(1, 3)))]
    queues = [list(choice.outputs) for choice in choices]
    merged: list[RequestOutput] = []
    while any(queues):
        merged.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    num_tokens = sum(len(output.token_ids) for output in merged)
    merged[-1].usage = Usage(11, num_tokens, 4, MissReason.NEW)
    cuts = sorted(draw(st.sets(st.integers(1, len(merged)), max_size=4)) | {len(merged)})
    return choices, [merged[i:j] for i, j in zip([0, *cuts], cuts, strict=False)]


def reading_of(choices: list[Script], **fields) -> ReadOptions:
    """Makes the parsers of the choices in order."""
    parsers = iter([ScriptedParser(choice.by_output) for choice in choices])
    return ReadOptions(lambda: next(parsers), calls=True, **fields)


@st.composite
def readings(draw) -> dict[str, object]:
    is_legacy = draw(st.booleans())
    return {
        "is_legacy": is_legacy,
        "is_parallel": not is_legacy and draw(st.booleans()),
        "shows_reasoning": draw(st.booleans()),
        "stops": draw(st.sampled_from([(), ("ba",), ("\n", "é")])),
        "include_stop": draw(st.booleans()),
    }


def message_of(chunks: list[dict]) -> dict:
    """The choice of a whole answer, joined from the chunks of one choice."""
    message: dict = {"content": None, "refusal": None}
    calls: list[dict] = []
    logprobs: list[dict] = []
    for chunk in chunks:
        delta = dict(chunk["delta"])
        for call in delta.pop("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(calls)
                calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        if function := delta.pop("function_call", None):
            whole = message.setdefault("function_call", {"name": function.get("name"), "arguments": ""})
            whole["arguments"] += function["arguments"]
        for name, text in delta.items():
            message[name] = text if message.get(name) is None else message[name] + (text or "")
        logprobs += (chunk["logprobs"] or {"content": []})["content"]
    if calls:
        message["tool_calls"] = calls
    (finish,) = [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]]
    logprobs_object = {"content": logprobs, "refusal": None}
    return {"index": chunks[0]["index"], "message": message, "logprobs": logprobs_object, "finish_reason": finish}


def streamed(formatter, deliveries) -> list[dict]:
    data = b"".join(formatter.frames(delivery) for delivery in deliveries) + formatter.end()
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in data.split(b"\n\n")[:-2]]


def whole(formatter, deliveries) -> dict:
    for delivery in deliveries:
        formatter.add(delivery)
    return orjson.loads(formatter.body())


@given(answer=answers(), fields=readings())
@settings(deadline=None, max_examples=80)
def test_chat_stream_of_any_events_adds_up_to_the_whole_answer(answer, fields):
    choices, deliveries = answer

    def formatter() -> ChatFormatter:
        options = AnswerOptions(include_usage=True, num_logprobs=0, cache_info=True)
        return ChatFormatter(HEADER, len(choices), options, reading_of(choices, **fields))

    one, other = formatter(), formatter()
    *chunks, last = streamed(one, deliveries)
    document = whole(other, deliveries)
    added_up = [
        message_of([chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index])
        for index in range(len(choices))
    ]
    assert added_up == document["choices"]
    assert last["usage"] == document["usage"]
    assert last["usage"]["completion_tokens"] == other.progress.usage.num_tokens
    assert one.progress.to_finish == other.progress.to_finish


@given(script=scripts(), fields=readings())
@settings(deadline=None, max_examples=50)
def test_items_of_any_events_add_up_to_the_parsed_message(script, fields):
    reader, items = ChoiceReader(reading_of([script], **fields)), ItemReader()
    events: list[Event] = []
    seen = []
    for output in script.outputs:
        events += (new := reader.read(output))
        seen += items.read(new)
        if reader.is_over or output.finish_reason is not None:
            seen += items.finish(FinishReason.STOP if reader.is_over else output.finish_reason)
            break
    texts: dict[ItemKind, str] = dict.fromkeys(ItemKind, "")
    for item in items.items:
        texts[item.kind] += item.text
    parsed = ParsedMessage.of(events)
    calls = [(call.name, call.call_id) for call in parsed.calls]
    assert [(item.name, item.call_id) for item in items.items if item.kind is ItemKind.TOOL_CALL] == calls
    assert list(texts.values()) == [
        parsed.content, parsed.reasoning, "".join(call.arguments for call in parsed.calls)
    ]  # fmt: skip
    assert items.items
    check_order(items.items, seen)


def check_order(items, seen) -> None:
    """Items are numbered in order; each starts, grows and ends before the next one starts."""
    expected, left = [], list(seen)
    for index, item in enumerate(items):
        assert (item.index, item.status is ItemStatus.IN_PROGRESS) == (index, False)
        own = [event for event in seen if event.item is item]
        expected += own
        assert type(own[0]) is ItemStarted
        assert type(own[-1]) is ItemDone
        assert "".join(event.text for event in own[1:-1] if type(event) is ItemDelta) == item.text
    assert left == expected


@given(script=scripts(), fields=readings())
@settings(deadline=None, max_examples=40)
def test_block_stream_of_any_events_adds_up_to_the_whole_answer(script, fields):
    deliveries = [[output] for output in script.outputs]
    script.outputs[-1].usage = Usage(11, sum(len(output.token_ids) for output in script.outputs), 4)
    data = b"".join(_frames(BlockFormatter(reading_of([script], **fields)), deliveries))
    document = whole(BlockFormatter(reading_of([script], **fields)), deliveries)
    blocks: list[dict] = []
    for frame in data.split(b"\n\n")[:-1]:
        event = orjson.loads(frame.partition(b"data: ")[2])
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "text": ""})
        elif event["type"] == "content_block_delta":
            blocks[event["index"]]["text"] += event["delta"]
        elif event["type"] == "message_delta":
            assert event["usage"] == document["usage"]
    assert [{**block, "id": ""} for block in blocks] == [{**block, "id": ""} for block in document["content"]]


def _frames(formatter, deliveries) -> list[bytes]:
    return [formatter.start(), *map(formatter.frames, deliveries), formatter.end()]
