"""Calls inside reasoning that nothing closes: they count if the answer ends with them."""

from __future__ import annotations

import pytest

from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from llamafast.chat.reading.answer_parser import AnswerParser
from tests.chat.formats.test_damaged_calls import FORMATS, complete_calls
from tests.chat.messages import TOOLS, Call, Message
from tests.chat.more_writers import WRITERS

PARIS: Call = ("get_weather", {"city": "Paris"})
NOW: Call = ("now", {})


def starts_of(format: str) -> tuple[str, ...]:
    parser = registry.by_name(format).parser("", TOOLS)
    return parser.starts.texts if isinstance(parser, AnswerParser) else ()


# Calls without a marker within text, and messages instead of tags.
BARE = {"llama3_json", "llama4_pythonic", "llama_pythonic", "xlam", "harmony", "muse"}
DRAFTING = [name for name in FORMATS if registry.by_name(name).reasoning and starts_of(name) and name not in BARE]


def read_alike(format: str, text: str) -> ParsedMessage:
    tags = registry.by_name(format).reasoning
    assert tags is not None
    whole, *others = [
        ParsedMessage.of(
            registry.by_name(format).parser(tags.open, TOOLS).read(text[at : at + n] for at in range(0, len(text), n))
        )
        for n in (100_000, 1, 7)
    ]
    assert all(other == whole for other in others)
    return whole


def written(format: str, *calls: Call) -> str:
    text = WRITERS[format](Message(calls=calls), False).text
    return text[min((at for start in starts_of(format) if (at := text.find(start)) >= 0), default=0) :].rstrip()


def close(format: str) -> str:
    tags = registry.by_name(format).reasoning
    assert tags is not None
    return tags.close


@pytest.mark.parametrize("format", DRAFTING)
def test_call_at_the_end_of_open_reasoning_is_a_call(format: str) -> None:
    for calls in ((PARIS,), (PARIS, NOW)):
        message = read_alike(format, f"hm\n\n{written(format, *calls)}")
        assert (complete_calls(message), message.reasoning, message.content) == (list(calls), "hm", "")


@pytest.mark.parametrize("format", DRAFTING)
@pytest.mark.parametrize("behind", ["{close}Yes.", " or so.{close}Yes."])
def test_call_in_reasoning_that_is_closed_is_a_draft(format: str, behind: str) -> None:
    reasoning = f"hm\n{written(format, PARIS)}"
    message = read_alike(format, reasoning + behind.format(close=close(format)))
    assert (message.reasoning, message.content, message.calls) == (reasoning + behind.partition("{")[0], "Yes.", [])


@pytest.mark.parametrize("format", DRAFTING)
@pytest.mark.parametrize("call", [("stranger", {"city": "Paris"}), PARIS], ids=["unknown", "cut"])
def test_no_whole_call_of_a_tool_at_the_end_of_open_reasoning_is_reasoning(format: str, call: Call) -> None:
    text = f"hm\n{written(format, call)}"
    text = text[: text.rindex("Par") + 3] if call is PARIS else text
    message = read_alike(format, text)
    assert (message.reasoning, message.content, message.calls) == (text, "", [])


@pytest.mark.parametrize("format", DRAFTING)
def test_call_after_a_draft_in_open_reasoning_is_the_only_call(format: str) -> None:
    draft = f"hm\n{written(format, NOW)} or"
    message = read_alike(format, f"{draft}\n{written(format, PARIS)}\n")
    assert (complete_calls(message), message.reasoning, message.content) == ([PARIS], draft, "")


def test_reasoning_before_a_draft_is_told_at_once() -> None:
    parser = registry.by_name("hermes").parser("<think>", TOOLS)
    told = [ParsedMessage.of(parser.feed(text)).reasoning for text in ("hm", " <tool_call>", "{", "]", " so")]
    assert told == ["hm", "", "", " <tool_call>{]", " so"]
