"""Calls enforced on random weights: each format's parser reads them at any temperature, and they match schemas."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.formats import registry
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason, ReasoningBudget, Request, SamplingParams
from tests import tiny_models
from tests.chat.calls import faults, read
from tests.engine.fakes import Collector
from tests.grammars.walks import OBJECT_TOOLS

FORMATS = ("qwen3_xml", "hermes", "gemma4", "llama_pythonic", "harmony", "mistral")
# Random weights would not end a property name that the model may choose freely.
OPEN = ('"additionalProperties": {', "patternProperties", "propertyNames")
TOOLS = [tool for tool in OBJECT_TOOLS if not any(text in json.dumps(tool.parameters) for text in OPEN)][:20]
MAX_TOKENS = 1200
pytestmark = pytest.mark.usefixtures("native")


def open_model(path: Path, control: tuple[str, ...] = ()) -> Engine:
    tiny_models.write_attention_model(path, extra_control=control)
    return Engine(str(path), EngineConfig(n_ctx=32768, n_seq_max=16, threads=1))


def request_for(engine: Engine, name: str, number: int, rules: CallPolicy, prompt: str, **params) -> Request:
    source = registry.by_name(name).grammar(prompt, TOOLS, rules)
    structured = StructuredOutput(StructuredKind.LARK, source)
    token_ids = array("i", engine.tokenizer.encode(f"hello{prompt}", add_special=True, parse_special=True))
    params = {"temperature": 1.0 + number % 3 / 2, "seed": number, "max_tokens": MAX_TOKENS, **params}
    return Request(
        f"{name} {number}",
        token_ids,
        SamplingParams(structured=structured, **params),
        skip_special=False,
        grammar=engine.compile_grammar(structured),
    )


def check_calls(engine: Engine, name: str, num_requests: int) -> None:
    """Run requests that each name a tool. All complete calls must be valid, and almost all must be complete."""
    chat_format = registry.by_name(name)
    prompt = chat_format.reasoning.close
    rules = [CallPolicy(True, False, (TOOLS[i % len(TOOLS)].name,)) for i in range(num_requests)]
    requests = [request_for(engine, name, i, rules[i], prompt) for i in range(num_requests)]
    outputs = Collector().run(engine, *requests, max_steps=20_000)
    for i, request in enumerate(requests):
        key = (request.request_id, 0)
        assert outputs.finished[key].finish_reason is FinishReason.STOP, outputs.text[key]
        message = read(chat_format, prompt, TOOLS, outputs.text[key])
        assert ([call.name for call in message.calls], faults(message)) == ([TOOLS[i % len(TOOLS)].name], [])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with open_model(tmp_path_factory.mktemp("models") / "plain.gguf") as engine:
        yield engine


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    markers = tuple(sorted({marker for name in FORMATS for marker in registry.by_name(name).markers}))
    with open_model(tmp_path_factory.mktemp("models") / "control.gguf", markers) as engine:
        yield engine


@pytest.mark.parametrize("name", ["qwen3_xml", "hermes"])
def test_named_calls_of_random_weights_meet_their_schemas(plain, name) -> None:
    check_calls(plain, name, 8)


@pytest.mark.parametrize("name", ["gemma4", "harmony"])
def test_named_calls_in_control_tokens_meet_their_schemas(controlled, name) -> None:
    check_calls(controlled, name, 8)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMATS)
def test_two_hundred_calls_of_random_weights_meet_their_schemas(plain, name) -> None:
    check_calls(plain, name, 200)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMATS)
def test_two_hundred_calls_in_control_tokens_meet_their_schemas(controlled, name) -> None:
    check_calls(controlled, name, 200)


def test_names_and_tags_are_forced_in_few_decodes(plain) -> None:
    rules = CallPolicy(True, False, ("calculator",))
    request = request_for(plain, "qwen3_xml", 0, rules, "</think>")
    num_before = plain.runner.num_decodes
    outputs = Collector().run(plain, request)
    assert plain.runner.num_decodes - num_before < len(outputs.token_ids["qwen3_xml 0", 0]) / 2


def test_call_follows_reasoning_that_a_budget_closes(plain) -> None:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(plain.tokenizer.encode(text, add_special=False, parse_special=True))

    limit = ReasoningBudget(5, True, "</think>", ids("\n</think>\n\n"))
    rules = CallPolicy(True, False, ("calculator",))
    request = request_for(
        plain, "hermes", 0, rules, "<think>\n", reasoning_budget=limit, logit_bias=((ids("<")[0], -9),)
    )
    text = Collector().run(plain, request).text["hermes 0", 0]
    message = read(registry.by_name("hermes"), "<think>\n", TOOLS, text)
    assert ([call.name for call in message.calls], faults(message), bool(message.reasoning)) == (
        ["calculator"],
        [],
        True,
    )
