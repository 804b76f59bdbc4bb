"""AnswerParser: white space, markers and malformed calls, in one format."""

from __future__ import annotations

import pytest

from llamafast.chat.events import Content, ParsedCall, ParsedMessage
from llamafast.chat.format import ChatFormat
from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool

TOOLS = [Tool("f", parameters={"properties": {"s": {"type": "string"}}})]
CALL = '<tool_call>\n{"name": "f", "arguments": {"s": "x"}}\n</tool_call>'
BROKEN = "<tool_call> <think> a </think> b"
PARSED = ParsedCall("f", '{"s": "x"}', is_complete=True)


def parse(text: str, prompt: str = "", tools=TOOLS, format: ChatFormat | None = None) -> ParsedMessage:
    return ParsedMessage.of((format or registry.by_name("hermes")).parser(prompt, tools).read(text))


@pytest.mark.parametrize(
    "text", ["", " ", "a", " a \n", "a <b", "a <tool_cal", "<tool_call> a", CALL[:20], "<thi", BROKEN]
)
def test_machine_text_without_call_is_content_verbatim(text: str) -> None:
    assert parse(text) == ParsedMessage(content=text)


def test_machine_without_tools_leaves_calls_in_content() -> None:
    assert parse(CALL, tools=None) == ParsedMessage(content=CALL)


@pytest.mark.parametrize("between", ["", " ", "\n\n\t"])
def test_machine_space_between_parts_belongs_to_none(between: str) -> None:
    text = between.join(["<think>", "why", "</think>", "a b", CALL, CALL, "c", ""])
    assert parse(text) == ParsedMessage("why", "a bc" + between, [PARSED, PARSED])


def test_machine_prompt_with_open_reasoning_goes_on_in_it() -> None:
    assert parse(f"why {CALL}</think>a", "<think>\n") == ParsedMessage(f"why {CALL}", "a")


def test_machine_reasoning_quoted_in_content_is_content() -> None:
    assert parse("a <think>b</think>") == ParsedMessage(content="a <think>b</think>")


def test_machine_call_with_broken_head_is_content_and_the_next_one_a_call() -> None:
    assert parse(f"<tool_call>{CALL}") == ParsedMessage(content="<tool_call>", calls=[PARSED])


def test_machine_call_gone_wrong_ends_and_the_rest_is_content() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"s": nope}} a'
    assert parse(text) == ParsedMessage(content="}} a", calls=[ParsedCall("f", '{"s": nope')])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_machine_endless_name_of_a_parameter_is_given_up_at_one_place(size: int) -> None:
    text = "<tool_call><function=f><parameter=" + "k" * 300
    parser = registry.by_name("qwen3_xml").parser("", TOOLS)
    message = ParsedMessage.of(parser.read(text[at : at + size] for at in range(0, len(text), size)))
    assert message == ParsedMessage(content="k" * 44, calls=[ParsedCall("f")])


def test_machine_call_without_end_marker_is_complete() -> None:
    assert parse(CALL[: -len("</tool_call>")]) == ParsedMessage(calls=[PARSED])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_machine_content_stands_where_its_start_says(size: int) -> None:
    text = f"<think> why </think> a  b {CALL} <tool_call> c < d "
    parser = registry.by_name("hermes").parser("", TOOLS)
    events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
    contents = [event for event in events + parser.finish() if isinstance(event, Content)]
    assert [text[c.start : c.start + len(c.text)] for c in contents] == [c.text for c in contents]


def test_registry_unknown_name_lists_names_and_a_near_one() -> None:
    with pytest.raises(ValueError, match=r"Did you mean hermes\? The known formats are: .*hermes, .*plain, "):
        registry.by_name("hermez")


def test_registry_template_without_calls_is_plain_with_its_reasoning() -> None:
    format = registry.detect("{{ messages }} [THINK]")
    assert parse("[THINK]why[/THINK]<think>a", format=format) == ParsedMessage("why", "<think>a")
