"""Every format with random texts made of its own markers: no text breaks the parser, wherever it is cut."""

from __future__ import annotations

import json
import random
import time

import pytest

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.formats.test_formats import cut
from tests.chat.messages import MESSAGES, TOOLS
from tests.chat.more_writers import WRITERS

FORMATS = registry.names()
NUM_TEXTS = 20  # per format; runs with the fuzz marker use 2,000
CRUMBS = [
    "now",
    "run",
    "search",
    "code",
    "a",
    " ",
    "\n",
    '"',
    "'",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "<",
    ">",
    "</",
    "\\",
    "1",
    "é",
]
SAMPLES = ("all types", "three calls", "all before a call", "quotes")


def pieces_of(format: str) -> list[str]:
    """The pieces of the texts: markers, and whole messages in small pieces."""
    written = [WRITERS[format](MESSAGES[name], False).text for name in SAMPLES]
    draw = random.Random(format)
    return [*registry.by_name(format).markers * 2, *CRUMBS, *(piece for text in written for piece in cut(text, draw))]


def texts(format: str, number: int) -> list[tuple[str, str]]:
    """(prompt, text): pieces in random order, and messages with one damaged place."""
    draw, pieces = random.Random(format), pieces_of(format)
    found = []
    for i in range(number):
        if i % 2:
            text = "".join(draw.choices(pieces, k=draw.randrange(1, 25)))
        else:
            text = WRITERS[format](MESSAGES[draw.choice(SAMPLES)], False).text
            place = draw.randrange(len(text) + 1)
            text = text[:place] + draw.choice(pieces) + text[place + draw.choice([0, 1, 5]) :]
        found.append((WRITERS[format](MESSAGES["content"], draw.random() < 0.3).prompt, text))
    return found


def events(format: str, prompt: str, pieces: list[str]) -> list[Event]:
    return registry.by_name(format).parser(prompt, TOOLS).read(pieces)


def check(format: str, prompt: str, text: str, draw: random.Random) -> None:
    whole = events(format, prompt, [text])
    message = ParsedMessage.of(whole)
    for pieces in (list(text), cut(text, draw), cut(text, draw)):
        cut_events = events(format, prompt, pieces)
        assert ParsedMessage.of(cut_events) == message, (prompt, pieces)
        check_order(cut_events, text)
    check_order(whole, text)
    for call in message.calls:
        if call.is_complete:
            assert isinstance(json.loads(call.arguments), dict)


def check_order(found: list[Event], text: str) -> None:
    """Contents are at their offsets, in order. Calls begin, continue and end one after the other."""
    place, index, is_open = 0, -1, False
    for event in found:
        if isinstance(event, Content):
            assert event.start >= place and text.startswith(event.text, event.start) and event.text
            place = event.start + len(event.text)
        elif isinstance(event, CallStart):
            index += 1
            assert (event.index, is_open) == (index, False) and event.name
            is_open = True
        elif isinstance(event, (CallArguments, CallEnd)):
            assert (event.index, is_open) == (index, True)
            is_open = isinstance(event, CallArguments)
    assert not is_open


@pytest.mark.parametrize("format", FORMATS)
def test_format_garbage_means_the_same_wherever_it_is_cut(format: str) -> None:
    draw = random.Random(format)
    for prompt, text in texts(format, NUM_TEXTS):
        check(format, prompt, text, draw)


@pytest.mark.fuzz
@pytest.mark.parametrize("format", FORMATS)
def test_format_much_garbage_means_the_same_wherever_it_is_cut(format: str) -> None:
    draw = random.Random(format)
    for prompt, text in texts(format, 2_000):
        check(format, prompt, text, draw)


@pytest.mark.fuzz
@pytest.mark.parametrize("size", [1, 16_000])
@pytest.mark.parametrize("format", FORMATS)
def test_format_repeated_pieces_cost_linear_time(format: str, size: int) -> None:
    def cost(text: str) -> float:
        parser = registry.by_name(format).parser("", TOOLS)
        start = time.process_time()
        for place in range(0, len(text), size):
            parser.feed(text[place : place + size])
        parser.finish()
        return time.process_time() - start

    markers = registry.by_name(format).markers
    for piece in sorted({*markers, *CRUMBS, *(marker + '{"arguments":{"' for marker in markers)}):
        short, long = (piece * (length // len(piece) + 1) for length in (1_000, 16_000))
        # Linear time gives 16, quadratic time 256. A busy machine may double one of the two.
        assert cost(long) < 64 * max(min(cost(short) for _ in range(3)), 2e-4), piece
