"""Formatters: streamed and whole answers are equal, for all texts and all cuts."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.completions import CompletionFormatter, Echo
from llamafast.server.answers.logprobs import json_list
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.chat.choice import ReadOptions

HEADER = AnswerHeader("id-1", 5, 'mo"del', "fp_1")
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('😀👩\u200d👩\u200d👧é"\\\n\r\x00\u2028data: ')))
NUM_CHOICES = 3


@st.composite
def deliveries(draw, with_logprobs: bool):
    """Outputs of three choices, interleaved at random and cut into deliveries at random."""
    queues = []
    for index in range(NUM_CHOICES):
        texts = draw(st.lists(TEXT, min_size=1, max_size=4))
        outputs = []
        for text in texts:
            entry = TokenLogprob(7, -0.25, text.encode(), 0, ((7, -0.25, text.encode()), (8, -2.0, b"\xff")))
            outputs.append(RequestOutput("r", index, text, [7], [entry] if with_logprobs else None))
        outputs[-1].finish_reason = draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
        queues.append(outputs)
    total = sum(map(len, queues))
    merged = []
    while any(queues):
        merged.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    merged[-1].usage = Usage(11, total, 4)
    cuts = sorted(draw(st.sets(st.integers(1, total), max_size=4)) | {total})
    return [merged[i:j] for i, j in zip([0, *cuts], cuts, strict=False)]


def chat(**options) -> ChatFormatter:
    return ChatFormatter(
        HEADER, NUM_CHOICES, AnswerOptions(**options), ReadOptions(lambda: Qwen3Xml().parser("", None))
    )


def completion(echo=(), **options) -> CompletionFormatter:
    return CompletionFormatter(HEADER, NUM_CHOICES, AnswerOptions(**options), echo)


def streamed(formatter, outputs) -> list[dict]:
    data = b"".join(formatter.frames(delivery) for delivery in outputs) + formatter.end()
    events = data.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def whole(formatter, outputs) -> dict:
    for delivery in outputs:
        formatter.add(delivery)
    return orjson.loads(formatter.body())


@given(outputs=deliveries(with_logprobs=False))
@settings(deadline=None, max_examples=60)
def test_chat_stream_any_text_equals_whole_answer(outputs):
    *chunks, usage = streamed(chat(include_usage=True), outputs)
    answer = whole(chat(), outputs)
    contents = [""] * NUM_CHOICES
    finishes: list[str | None] = [None] * NUM_CHOICES
    for chunk in chunks:
        (choice,) = chunk["choices"]
        contents[choice["index"]] += choice["delta"].get("content", "")
        finishes[choice["index"]] = choice["finish_reason"]
    assert contents == [choice["message"]["content"] for choice in answer["choices"]]
    assert finishes == [choice["finish_reason"] for choice in answer["choices"]]
    assert usage["usage"] == answer["usage"]


@given(outputs=deliveries(with_logprobs=True))
@settings(deadline=None, max_examples=30)
def test_completion_stream_any_text_equals_whole_answer(outputs):
    echo = [Echo("p0"), Echo("p1"), Echo("p2")]
    chunks = streamed(completion(num_logprobs=1, echo=echo), outputs)
    answer = whole(completion(num_logprobs=1, echo=echo), outputs)
    texts = [""] * NUM_CHOICES
    tops: list[list[dict]] = [[] for _ in range(NUM_CHOICES)]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        tops[choice["index"]] += (choice["logprobs"] or {"top_logprobs": []})["top_logprobs"]
    assert texts == [choice["text"] for choice in answer["choices"]]
    assert tops == [choice["logprobs"]["top_logprobs"] for choice in answer["choices"]]


@st.composite
def thoughts(draw):
    """Outputs of one choice that begins inside reasoning, one token each, in random deliveries."""
    pieces = draw(
        st.lists(st.sampled_from(["</think>", "</th", "ink>", "\n", " ", "so", '{"a"', "é", ""]), max_size=12)
    )
    outputs, offset = [], 0
    for token_id, text in enumerate(pieces):
        entry = TokenLogprob(token_id, -0.25, text.encode(), offset)
        offset += len(text)
        # As the engine does: a token's logprob comes with the first character of its text.
        outputs.append(RequestOutput("r", 0, text, [token_id], [entry] if text else []))
    outputs.append(RequestOutput("r", 0, "", [], finish_reason=FinishReason.STOP, usage=Usage(3, len(pieces))))
    cuts = sorted(draw(st.sets(st.integers(1, len(outputs)), max_size=4)) | {len(outputs)})
    return [outputs[i:j] for i, j in zip([0, *cuts], cuts, strict=False)]


@given(outputs=thoughts())
@settings(deadline=None, max_examples=100)
def test_chat_stream_with_reasoning_equals_whole_answer(outputs):
    def formatter() -> ChatFormatter:
        return ChatFormatter(
            HEADER, 1, AnswerOptions(num_logprobs=0), ReadOptions(lambda: Qwen3Xml().parser("<think>", None))
        )

    chunks = [chunk["choices"][0] for chunk in streamed(formatter(), outputs)]
    (choice,) = whole(formatter(), outputs)["choices"]
    for name in ("content", "reasoning_content"):
        assert "".join(chunk["delta"].get(name, "") for chunk in chunks) == choice["message"].get(name, "")
    logprobs = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
    assert logprobs == choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in logprobs) in choice["message"]["content"]


@pytest.mark.parametrize("make", [chat, completion])
def test_formatter_chunks_equal_plain_json(make):
    formatter = make()
    data = formatter.frames([RequestOutput("r", 1, 'é"\n', [1])])
    last = data.split(b"\n\n")[-2].removeprefix(b"data: ")
    assert orjson.dumps(orjson.loads(last)) == last


def test_formatter_stops_at_the_first_error():
    formatter = chat()
    broken = RequestOutput("r", 0, "", [], finish_reason=FinishReason.ERROR, error=ValueError("x"))
    data = formatter.frames([RequestOutput("r", 0, "a", [1]), broken, RequestOutput("r", 1, "b", [1])])
    assert isinstance(formatter.progress.error, ValueError)
    assert b'"a"' in data
    assert b'"b"' not in data


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2000])
def test_json_list_of_any_length_is_the_list(size):
    items = [{"a": i, "b": [None, "\u00e9"]} for i in range(size)]
    assert orjson.loads(orjson.dumps({"x": json_list(iter(items))})) == {"x": items}
