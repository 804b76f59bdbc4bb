"""Every format with its own outputs and with mistakes of models: whole, per character, and cut anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llamafast.chat.events import ParsedCall, ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.messages import MESSAGES, TOOLS
from tests.chat.more_writers import WRITERS

CORPUS = Path(__file__).parents[1] / "corpus"
FORMATS = registry.names()
NUM_CUTS = 4  # per output; runs with the fuzz marker use 200


@dataclass(frozen=True)
class Output:
    """An output of a model and its meaning: (reasoning, content, calls). Complete arguments are values."""

    name: str
    prompt: str
    text: str
    expected: tuple[str, str, list[tuple[str, object, bool]]]


def written(format: str) -> list[Output]:
    outputs = []
    for number, (name, message) in enumerate(MESSAGES.items()):
        if format == "plain" and message.calls:
            continue
        text = WRITERS[format](message, number % 2 == 0)
        calls: list[tuple[str, object, bool]] = [(name, arguments, True) for name, arguments in message.calls]
        expected = (message.reasoning, message.content + message.after, calls)
        outputs.append(Output(name, text.prompt, text.text, expected))
    return outputs


def collected(format: str) -> list[Output]:
    outputs = []
    for case in json.loads((CORPUS / f"{format}.json").read_text()):
        expected = case["expected"]
        calls = [(call["name"], call["arguments"], call.get("is_complete", True)) for call in expected.get("calls", [])]
        parts = expected.get("reasoning", ""), expected.get("content", "")
        outputs.append(Output(case["name"], case.get("prompt", ""), case["text"], (*parts, calls)))
    return outputs


OUTPUTS = {format: written(format) + collected(format) for format in FORMATS}


def parse(format: str, prompt: str, pieces: Iterable[str]) -> ParsedMessage:
    return ParsedMessage.of(registry.by_name(format).parser(prompt, TOOLS).read(pieces))


def ends_in_reasoning(format: str, prompt: str, text: str) -> bool:
    parser = registry.by_name(format).parser(prompt, TOOLS)
    parser.feed(text)
    return parser.is_reasoning


def values(message: ParsedMessage) -> tuple[str, str, list[tuple[str, object, bool]]]:
    def value(call: ParsedCall) -> object:
        return json.loads(call.arguments) if call.is_complete else call.arguments

    return message.reasoning, message.content, [(call.name, value(call), call.is_complete) for call in message.calls]


def cut(text: str, draw: random.Random) -> list[str]:
    places = sorted(draw.randrange(len(text) + 1) for _ in range(draw.choice([1, 2, 5, 20])))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def differing(format: str, num_cuts: int) -> list[tuple[str, list[str]]]:
    """Outputs whose meaning changes when they are cut."""
    draw = random.Random(format)
    return [
        (output.name, pieces)
        for output in OUTPUTS[format]
        for whole in [parse(format, output.prompt, [output.text])]
        for pieces in [list(output.text), *(cut(output.text, draw) for _ in range(num_cuts))]
        if parse(format, output.prompt, pieces) != whole
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_format_whole_output_has_its_meaning(format: str) -> None:
    parsed = {output.name: values(parse(format, output.prompt, [output.text])) for output in OUTPUTS[format]}
    assert parsed == {output.name: output.expected for output in OUTPUTS[format]}


@pytest.mark.parametrize("format", FORMATS)
def test_format_output_in_pieces_means_the_same(format: str) -> None:
    assert differing(format, NUM_CUTS) == []


@pytest.mark.fuzz
@pytest.mark.parametrize("format", FORMATS)
def test_format_output_in_many_pieces_means_the_same(format: str) -> None:
    assert differing(format, 200) == []


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "plain"])
def test_format_corpus_holds_thirty_outputs(format: str) -> None:
    names = [output.name for output in OUTPUTS[format]]
    assert len(set(names)) == len(names) >= 30


@pytest.mark.parametrize("format", FORMATS)
def test_format_output_ended_anywhere_shows_only_what_it_held(format: str) -> None:
    """If a text is cut off, its arguments are a prefix of those of the whole text, or those of an open value."""
    for output in OUTPUTS[format]:
        whole = parse(format, output.prompt, [output.text])
        for end in range(0, len(output.text), 7):
            part = parse(format, output.prompt, [output.text[:end]])
            if part.calls and ends_in_reasoning(format, output.prompt, output.text[:end]):
                assert all(call.is_complete for call in part.calls)  # a draft, if the text continues
                continue
            assert [call.name for call in part.calls] == [call.name for call in whole.calls[: len(part.calls)]]
            assert all(call == whole.calls[i] for i, call in enumerate(part.calls[:-1])), (output.name, end)
