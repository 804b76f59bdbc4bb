"""Calls that a grammar forces out of random tokens: each format's parser reads them, and they meet their schemas."""

from __future__ import annotations

import json

import jsonschema
import pytest

from llamafast.parsing.events import ParsedMessage
from llamafast.parsing.output_grammar import CallRules
from llamafast.parsing.tool_formats import registry
from llamafast.parsing.tools import Tool
from tests.grammars.vocabularies import bytes_vocabulary
from tests.grammars.walks import OBJECT_TOOLS, WORDS, walk

FORMATS = {name: registry.by_name(name) for name in registry.names()}
ENFORCED = [name for name, chat_format in FORMATS.items() if chat_format.syntaxes]
SCHEMAS = {tool.name: tool.parameters for tool in OBJECT_TOOLS}
VOCABULARIES = pytest.mark.parametrize("is_control", [False, True], ids=["text", "control tokens"])
NUM_SEEDS = 3


def outputs(name: str, is_control: bool, rules: CallRules, num_seeds: int, prompt: str = "") -> list[ParsedMessage]:
    chat_format = FORMATS[name]
    vocabulary = bytes_vocabulary(*(chat_format.markers if is_control else ()))
    syntax = chat_format.syntaxes[0]
    closing = getattr(syntax.arguments, "close", "") or getattr(syntax.arguments, "quote", "")
    frame = () if syntax.content is None else (syntax.content.close, *syntax.content.opens)
    begins = syntax.marker or syntax.before_calls or str(syntax.before_name[0])
    # Inside reasoning these would be read as what they begin, where they are text.
    heads = () if prompt.endswith(chat_format.reasoning.open) else (*frame, *(begins,) * (1 if syntax.marker else 20))
    words = (*WORDS, *filter(None, (closing, *heads)), chat_format.reasoning.close)
    messages = []
    for seed in range(num_seeds):
        tools = [OBJECT_TOOLS[(seed * 7 + i) % len(OBJECT_TOOLS)] for i in range(4)]
        text = walk(
            vocabulary,
            chat_format.syntaxes,
            tools,
            rules,
            tags=chat_format.reasoning,
            prompt=prompt,
            seed=seed,
            words=words,
        )
        parser = chat_format.parser(prompt, tools)
        message = ParsedMessage()
        for char in text:
            message.add(parser.feed(char))
        message.add(parser.finish())
        messages.append(message)
    return messages


def faults(message: ParsedMessage) -> list[str]:
    """What is wrong with the calls of a message."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    found = []
    for call in message.calls:
        if not call.is_complete:
            found.append(f"{call.name} is incomplete: {call.arguments}")
            continue
        validator = jsonschema.Draft202012Validator(SCHEMAS[call.name], format_checker=checker)
        found += [f"{call.name}: {error.message}" for error in validator.iter_errors(json.loads(call.arguments))]
    return found


def check_required(name: str, is_control: bool, num_seeds: int) -> None:
    prompt = f"{FORMATS[name].reasoning.close}\n\n"
    for message in outputs(name, is_control, CallRules(is_required=True), num_seeds, prompt):
        assert message.calls and not message.content, message
        assert faults(message) == []


@VOCABULARIES
@pytest.mark.parametrize("name", ENFORCED)
def test_required_calls_are_read_and_meet_their_schemas(name, is_control) -> None:
    check_required(name, is_control, NUM_SEEDS)


@pytest.mark.fuzz
@VOCABULARIES
@pytest.mark.parametrize("name", ENFORCED)
def test_many_required_calls_are_read_and_meet_their_schemas(name, is_control) -> None:
    check_required(name, is_control, 200)


@VOCABULARIES
@pytest.mark.parametrize("name", ENFORCED)
def test_call_comes_behind_open_reasoning(name, is_control) -> None:
    rules = CallRules(is_required=True, is_parallel=False)
    prompt = f"<|start|>assistant{FORMATS[name].reasoning.open}"
    for message in outputs(name, is_control, rules, NUM_SEEDS, prompt):
        assert (len(message.calls), message.content, faults(message)) == (1, "", [])


@VOCABULARIES
@pytest.mark.parametrize("name", ENFORCED)
def test_strict_calls_behind_free_text_meet_their_schemas(name, is_control) -> None:
    messages = outputs(name, is_control, CallRules(), 4 * NUM_SEEDS, f"{FORMATS[name].reasoning.close}\n\n")
    assert [faults(message) for message in messages if faults(message)] == []
    assert any(message.calls for message in messages)


def test_named_tool_alone_is_called() -> None:
    tools = [Tool("a"), Tool("b")]
    text = walk(bytes_vocabulary(), FORMATS["hermes"].syntaxes, tools, CallRules(is_required=True, names=("b",)))
    assert '"name": "b"' in text and '"name": "a"' not in text
