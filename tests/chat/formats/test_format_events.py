"""Properties of the events of every format: offsets of content, markers, requests without tools."""

from __future__ import annotations

import json
import random
import re

import pytest

from llamafast.chat.events import Content, Event, ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.formats.test_formats import FORMATS, OUTPUTS, cut
from tests.chat.messages import MESSAGES, TOOLS
from tests.chat.more_writers import WRITERS

# In the form in which vocabularies write special tokens.
CONTROL_TOKEN = re.compile(r'<\|[^<>|\s]*\|?>|<[^<>|\s]*\|>|<｜[^<>｜]*｜>|\[/?[A-Z_]{3,}\]|<\|"\|>')


def events(format: str, prompt: str, pieces: list[str], *, has_tools: bool = True) -> list[Event]:
    return registry.by_name(format).parser(prompt, TOOLS if has_tools else None).read(pieces)


@pytest.mark.parametrize("format", FORMATS)
def test_format_content_stands_where_it_says(format: str) -> None:
    draw = random.Random(format)
    for output in OUTPUTS[format]:
        for has_tools in (True, False):
            end = -1
            for event in events(format, output.prompt, cut(output.text, draw), has_tools=has_tools):
                if isinstance(event, Content):
                    assert output.text.startswith(event.text, event.start), (output.name, event)
                    assert end <= event.start, (output.name, event)
                    end = event.start + len(event.text)


def mixed(format: str, draw: random.Random) -> tuple[str, str]:
    """A prompt, and pieces of several outputs and markers in random order."""
    pieces = []
    for output in draw.choices([output for output in OUTPUTS[format] if output.text], k=draw.randint(1, 5)):
        start = draw.randrange(len(output.text))
        pieces += [output.text[start : start + draw.randint(1, 60)]]
        pieces += draw.choices([*registry.by_name(format).markers, " ", "\n", "{}", '"', "now"], k=draw.randint(0, 2))
    return draw.choice(OUTPUTS[format]).prompt, "".join(pieces)


def check_mixed(format: str, num_texts: int) -> None:
    """The meaning of a text does not depend on how it is cut, and complete arguments are objects."""
    draw = random.Random(format)
    for _ in range(num_texts):
        prompt, text = mixed(format, draw)
        messages = []
        for pieces in ([text], list(text), cut(text, draw)):
            told = events(format, prompt, pieces)
            assert all(text.startswith(event.text, event.start) for event in told if isinstance(event, Content)), text
            messages.append(ParsedMessage.of(told))
        assert messages[0] == messages[1] == messages[2], text
        assert all(isinstance(json.loads(call.arguments), dict) for call in messages[0].calls if call.is_complete), text


@pytest.mark.parametrize("format", FORMATS)
def test_format_mixed_up_output_means_the_same_in_pieces(format: str) -> None:
    check_mixed(format, 10)


@pytest.mark.fuzz
@pytest.mark.parametrize("format", FORMATS)
def test_format_much_mixed_up_output_means_the_same_in_pieces(format: str) -> None:
    check_mixed(format, 500)


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "plain"])
def test_format_without_tools_keeps_calls_as_content(format: str) -> None:
    for name in ("one call", "two calls", "text around"):
        written = WRITERS[format](MESSAGES[name], False)
        message = ParsedMessage.of(events(format, written.prompt, [written.text], has_tools=False))
        assert message.calls == []
        assert all(text in message.content for call in MESSAGES[name].calls for text in (call[0], "Paris"))


@pytest.mark.parametrize("format", FORMATS)
def test_format_names_the_control_tokens_that_it_looks_for(format: str) -> None:
    written = [WRITERS[format](message, opens).text for message in MESSAGES.values() for opens in (True, False)]
    plain = "".join(str(message) for message in MESSAGES.values())
    tokens = {token for text in written for token in CONTROL_TOKEN.findall(text) if token not in plain}
    assert tokens <= set(registry.by_name(format).markers)
