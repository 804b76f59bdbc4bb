"""Mistakes of models within a format: the intended call is read if it is clear, otherwise the call is not complete."""

from __future__ import annotations

import pytest

from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.formats.test_damaged_calls import FORMATS, TAGGED, complete_calls
from tests.chat.messages import TOOLS, Message
from tests.chat.more_writers import WRITERS


def read_alike(format: str, prompt: str, text: str) -> ParsedMessage:
    parse = registry.by_name(format).parser
    whole, *others = [
        ParsedMessage.of(parse(prompt, TOOLS).read(text[at : at + n] for at in range(0, len(text), n)))
        for n in (100_000, 1, 5)
    ]
    assert all(other == whole for other in others)
    return whole


@pytest.mark.parametrize("format", sorted(TAGGED))
def test_call_that_gives_an_argument_twice_is_not_complete(format: str) -> None:
    call = ("get_weather", {"city": "Paris", "unit": "city"})
    text = WRITERS[format](Message(calls=(call,)), False).text
    twice = text.replace("unit", "city")
    message = read_alike(format, "", twice)
    assert (len(message.calls), complete_calls(message)) == (1, [])


@pytest.mark.parametrize("key", [" city ", "city ", " city"])
def test_space_around_the_name_of_an_argument_is_not_its_own(key: str) -> None:
    for format, text in (
        (
            "qwen3_xml",
            f"<tool_call>\n<function=get_weather>\n<parameter={key}>\nx\n</parameter>\n</function>\n</tool_call>",
        ),
        ("glm", f"<tool_call>get_weather\n<arg_key>{key}</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"),
    ):
        assert complete_calls(read_alike(format, "", text)) == [("get_weather", {"city": "x"})]


TAGS = {
    name: tags for name in FORMATS if (tags := registry.by_name(name).reasoning) and name not in ("harmony", "muse")
}


@pytest.mark.parametrize("format", TAGS)
def test_tag_of_reasoning_that_the_prompt_opened_already_is_dropped(format: str) -> None:
    tags = TAGS[format]
    message = read_alike(format, tags.open, f"\n{tags.open}\nhm{tags.close}Yes")
    assert (message.reasoning, message.content) == ("hm", "Yes")


def test_text_that_breaks_off_within_a_tag_of_reasoning_is_reasoning() -> None:
    message = read_alike("hermes", "<think>", "\n<thi")
    assert (message.reasoning, message.content) == ("<thi", "")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<|channel|>final<|message|>Hi<|end|>assistant<|channel|>final<|message|> you", "Hiyou"),
        ("<|channel|>commentary to=functions.now<|message|>{}<|call|>commentary", ""),
        ("<|channel|>commentary to=functions.now<|message|>{}<|call|>assistant", ""),
        ("<|channel|>final<|message|>Hi<|end|>assistants", "Hiassistants"),
        ("<|channel|>final<|message|>Hi<|end|>assist", "Hiassist"),
    ],
)
def test_role_or_channel_after_a_harmony_message_is_no_content(text: str, content: str) -> None:
    assert read_alike("harmony", "<|start|>assistant", text).content == content
