"""The formatter of responses: a text cut at every place gives the same object, whatever it holds."""

from __future__ import annotations

import re

import orjson
import pytest

from llamafast.chat.formats.hermes import Hermes
from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.chat.tools import Tool
from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.responses.tools import ToolOrigin
from llamafast.server.answers.options import AnswerOptions
from llamafast.server.answers.responses import LINES, ResponseFormatter
from llamafast.server.chat.choice import ReadOptions

SCHEMA = {"type": "object", "properties": {"input": {"type": "string"}}}
TOOLS = [Tool(name, "", SCHEMA, False) for name in ("get", "sh")]
ORIGINS = {"get": ToolOrigin("function", "get"), "sh": ToolOrigin("custom", "sh")}

XML = (
    "Let me see.</think>\n\nI look.\n\n<tool_call>\n<function=get>\n<parameter=input>\né\n</parameter>\n</function>\n"
    "</tool_call>\n<tool_call>\n<function=sh>\n<parameter=input>\nls 'ü'\n</parameter>\n</function>\n</tool_call>"
)
JSON = (
    'Let me see.</think>\n\nI look.\n<tool_call>\n{"name": "get", "arguments": {"a": "\\u00e9"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "sh", "arguments": {"input": "say \\"\\ud83d\\ude00\\" \\\\ \\n"}}\n</tool_call>'
)


def formatter(chat_format, **fields) -> ResponseFormatter:
    options = ReadOptions(lambda: chat_format.parser("<think>\n", TOOLS), calls=True, **fields)
    head = {"id": "resp_1", "usage": None, "completed_at": None, "incomplete_details": None}
    return ResponseFormatter(head, ORIGINS, options, AnswerOptions(), framing=LINES)


def outputs_of(pieces, finish) -> list[RequestOutput]:
    made = [RequestOutput("r", 0, piece, [1] * len(piece)) for piece in pieces]
    made[-1].finish_reason, made[-1].usage = finish, Usage(3, sum(map(len, pieces)), 0)
    return made


def events_of(made: ResponseFormatter, pieces, finish) -> list[dict]:
    data = made.start() + b"".join(made.frames([output]) for output in outputs_of(pieces, finish)) + made.end()
    return [orjson.loads(line) for line in data.splitlines()]


def anonymous(document: object) -> object:
    text = orjson.dumps(document).decode()
    text = re.sub(r'"completed_at":[0-9]+', '"completed_at":1', text)
    for i, found in enumerate(dict.fromkeys(re.findall(r"(?:msg|rs|fc|ctc|call)_[0-9a-f]{24,32}", text))):
        text = text.replace(found, f"id{i}")
    return orjson.loads(text)


@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH])
@pytest.mark.parametrize(("chat_format", "text"), [(Qwen3Xml(), XML), (Hermes(), JSON)])
def test_response_of_a_text_cut_anywhere_is_the_same(chat_format, text, finish):
    whole = formatter(chat_format)
    whole.add(outputs_of([text], finish))
    expected = orjson.loads(whole.body())
    assert [item["type"] for item in expected["output"]] == [
        "reasoning", "message", "function_call", "custom_tool_call",
    ]  # fmt: skip
    cuts = [[text[:i], text[i:]] for i in range(1, len(text))]
    for pieces in [*cuts, list(text)]:
        events = events_of(formatter(chat_format), pieces, finish)
        assert anonymous({**events[-1]["response"], "usage": None}) == anonymous({**expected, "usage": None})
        check_deltas(events)


def check_deltas(events) -> None:
    """The deltas of each item add up to its text."""
    texts = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
    for item in events[-1]["response"]["output"]:
        text = item.get("arguments", item.get("input")) if "call_id" in item else item["content"][0]["text"]
        assert texts.get(item["id"], "{}") == text


def test_custom_input_is_the_text_without_its_json():
    (*_, call) = events_of(formatter(Hermes()), list(JSON), FinishReason.STOP)[-1]["response"]["output"]
    assert call["input"] == 'say "\U0001f600" \\ \n'


def test_reasoning_that_is_not_shown_is_no_item():
    events = events_of(formatter(Qwen3Xml(), shows_reasoning=False), list(XML), FinishReason.STOP)
    assert next(item["type"] for item in events[-1]["response"]["output"]) == "message"
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert not [event for event in events if "reasoning" in event["type"]]


def test_response_cancelled_inside_an_item_keeps_its_text():
    made = formatter(Qwen3Xml())
    made.start()
    made.frames(outputs_of(["Hm"], None))
    made.cancel()
    response = made.response()
    assert (response["status"], response["usage"]) == ("cancelled", None)
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm"}]
