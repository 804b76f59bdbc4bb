"""Calls that a grammar forces from random tokens: the parser of each format reads them, and they meet their schemas."""

from __future__ import annotations

import json
import re
from functools import reduce

import jsonschema
import pytest

from llamafast.chat.enforcing.output_grammar import CallPolicy, ContentConstraint
from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError
from llamafast.grammars.lark import compile_lark
from tests.chat.calls import faults, read
from tests.grammars.vocabularies import bytes_vocabulary
from tests.grammars.walks import OBJECT_TOOLS, WORDS, walk, walk_program

FORMATS = {name: registry.by_name(name) for name in registry.names()}
ENFORCED = [name for name, chat_format in FORMATS.items() if chat_format.syntaxes]
VOCABULARIES = pytest.mark.parametrize("is_control", [False, True], ids=["text", "control tokens"])


def answers(name: str, answer: ContentConstraint, prompt: str, num_seeds: int) -> list[ParsedMessage]:
    """Answers without tools, as the parser of a format reads them."""
    chat_format = FORMATS[name]
    tags = chat_format.reasoning_at(prompt)
    program = compile_lark(
        bytes_vocabulary(*chat_format.markers), chat_format.grammar(prompt, (), CallPolicy(answer=answer))
    )
    words = (*WORDS, "</x>", "{", *(() if tags is None else (tags.open, tags.close)))
    return [read(chat_format, prompt, None, walk_program(program, seed, words)) for seed in range(num_seeds)]


def outputs(name: str, is_control: bool, rules: CallPolicy, num_seeds: int, prompt: str = "") -> list[ParsedMessage]:
    chat_format = FORMATS[name]
    vocabulary = bytes_vocabulary(*(chat_format.markers if is_control else ()))
    syntax = chat_format.syntaxes[0]
    closing = getattr(syntax.arguments, "close", "") or getattr(syntax.arguments, "quote", "")
    frame = () if syntax.content is None else (syntax.content.close, *syntax.content.opens)
    begins = syntax.marker or syntax.before_calls or str(syntax.before_name[0])
    # Inside reasoning these would begin something; here they are text.
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
        messages.append(read(chat_format, prompt, tools, text))
    return messages


def check_required(name: str, is_control: bool, num_seeds: int, prompt: str | None = None) -> None:
    prompt = f"{FORMATS[name].reasoning.close}\n\n" if prompt is None else prompt
    for message in outputs(name, is_control, CallPolicy(is_required=True), num_seeds, prompt):
        assert message.calls and not message.content, message
        assert faults(message) == []


def check_free(name: str, is_control: bool, num_seeds: int) -> None:
    messages = outputs(name, is_control, CallPolicy(), num_seeds, f"{FORMATS[name].reasoning.close}\n\n")
    assert [faults(message) for message in messages if faults(message)] == []
    assert any(message.calls for message in messages)


@pytest.mark.parametrize("name", ENFORCED)
def test_required_calls_are_read_and_meet_their_schemas(name) -> None:
    check_required(name, is_control=True, num_seeds=1)


@pytest.mark.parametrize("name", ENFORCED)
def test_call_comes_after_open_reasoning(name) -> None:
    rules = CallPolicy(is_required=True, is_parallel=False)
    prompt = f"<|start|>assistant{FORMATS[name].reasoning.open}"
    [message] = outputs(name, False, rules, 1, prompt)
    assert (len(message.calls), message.content, faults(message)) == (1, "", [])


@pytest.mark.parametrize("name", ["qwen3_xml", "hermes", "harmony", "functionary_v32", "llama3_json"])
def test_strict_calls_after_free_text_meet_their_schemas(name) -> None:
    check_free(name, is_control=True, num_seeds=12)


@pytest.mark.fuzz
@VOCABULARIES
@pytest.mark.parametrize("name", ENFORCED)
def test_many_calls_are_read_and_meet_their_schemas(name, is_control) -> None:
    check_required(name, is_control, 200)
    check_free(name, is_control, 50)


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": [1, 2]}}, "required": ["a", "b"]}


@pytest.mark.parametrize("name", FORMATS)
def test_answer_without_tools_is_json_after_whatever_the_model_thinks(name) -> None:
    messages = answers(name, ContentConstraint("response_format", SCHEMA), "<|im_start|>assistant\n", 4)
    for message in messages:
        jsonschema.validate(json.loads(message.content), SCHEMA)
    assert any(message.reasoning for message in messages)


@pytest.mark.parametrize("name", FORMATS)
def test_answer_without_tools_comes_after_open_reasoning(name) -> None:
    prompt = FORMATS[name].reasoning_at("").open
    for message in answers(name, ContentConstraint("guided_regex", regex=r"x[/\\\n]{2}y"), prompt, 2):
        assert message.reasoning and re.fullmatch(r"x[/\\\n]{2}y", message.content)


@pytest.mark.parametrize("name", ["harmony", "hermes", "apriel"])
def test_answer_without_tools_is_one_of_the_choices(name) -> None:
    found = {
        m.content
        for m in answers(name, ContentConstraint("guided_choice", choices=("no", "é </think>", "")), "</think>", 8)
    }
    assert "no" in found and found <= {"no", "é </think>", ""}


def test_prompt_that_opens_the_content_is_gone_on_with() -> None:
    prompt = '<|open|>message role="assistant"<|sep|><|open|>response<|sep|>'
    source = FORMATS["kimi_k3"].grammar(prompt, (), CallPolicy(answer=ContentConstraint("guided_regex", regex="x")))
    assert walk_program(compile_lark(bytes_vocabulary(), source), 0, ()) == "x"
    check_required("kimi_k3", is_control=True, num_seeds=2, prompt=prompt)


def test_nothing_is_thought_where_the_prompt_has_opened_the_answer() -> None:
    rules = CallPolicy(is_required=True)
    for prompt, may_reason, begin in ((">>>", True, b"f\n"), ("<|eot|>", False, b">>>f\n")):
        source = FORMATS["functionary_v32"].grammar(prompt, [Tool("f")], rules, may_reason=may_reason)
        assert bytes(compile_lark(bytes_vocabulary(), source).start().forced()).startswith(begin)


def test_reasoning_that_only_a_template_opens_is_known() -> None:
    prompt = "<|begin_assistant|>\nHere are my reasoning steps:\n"
    [message] = answers("apriel", ContentConstraint("response_format", SCHEMA), prompt, 1)
    assert message.reasoning and json.loads(message.content)


def test_named_tool_alone_is_called() -> None:
    tools = [Tool("a"), Tool("b")]
    text = walk(bytes_vocabulary(), FORMATS["hermes"].syntaxes, tools, CallPolicy(is_required=True, names=("b",)))
    assert '"name": "b"' in text and '"name": "a"' not in text


@pytest.mark.parametrize("name", ["hermes", "qwen3_xml", "gemma4"])
@pytest.mark.parametrize(
    "parameters",
    [
        reduce(lambda part, _: {"type": "object", "properties": {"a": part}}, range(3000), {}),
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}},
        {"type": "object", "properties": {"a": {"type": "nothing"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": -1}}},
        {
            "anyOf": [
                {"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {}}} for i in range(9)]} for j in range(9)
            ]
        },
        {"type": "string"},
        {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"not": {"const": 1}}}}}},
    ],
    ids=["deep", "dangling", "endless", "lookahead", "type", "multiple", "branches", "text", "not"],
)
def test_schema_that_cannot_be_enforced_is_refused_by_name_or_enforced(name, parameters) -> None:
    tools = [Tool("fine"), Tool("f", "", parameters, strict=True)]
    source = None
    try:
        source = FORMATS[name].grammar("</think>", tools, CallPolicy(is_required=True))
        compile_lark(bytes_vocabulary(), source)
    except GrammarError as error:
        assert error.param == "tools[1].function.parameters"
        return
    assert source is not None


@pytest.mark.parametrize("tool_name", ["mcp.files-v2_" + "x" * 51, "a:b/c.d", "7up"])
@pytest.mark.parametrize("name", ENFORCED)
def test_call_of_any_name_without_arguments_is_read(name, tool_name) -> None:
    tools = [Tool(tool_name, "", {"type": "object", "properties": {}, "additionalProperties": False})]
    chat_format, rules = FORMATS[name], CallPolicy(is_required=True, is_parallel=False)
    prompt = f"{chat_format.reasoning.close}\n\n"
    program = compile_lark(bytes_vocabulary(*chat_format.markers), chat_format.grammar(prompt, tools, rules))
    message = read(chat_format, prompt, tools, walk_program(program, 0, WORDS))
    assert [(call.name, json.loads(call.arguments), call.is_complete) for call in message.calls] == [
        (tool_name, {}, True)
    ]
    assert not message.content


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"kids": [ARGUMENTS]}}'),
        ("qwen3_xml", "<tool_call>\n<function=f>\n<parameter=kids>\n[ARGUMENTS]\n"),
        ("gemma4", "<|tool_call>call:f{kids:[ARGUMENTS]}<tool_call|>"),
        ("lfm2", "<|tool_call_start|>[f(kids=[ARGUMENTS])"),
    ],
)
def test_schema_that_refers_to_itself_is_held_to_at_every_depth(name, text) -> None:
    parameters = {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"items": {"$ref": "#"}}}}
    parameters["properties"]["kids"] |= {"type": "array"}
    parameters["additionalProperties"] = False
    tools = [Tool("f", "", parameters, strict=True)]
    program = compile_lark(bytes_vocabulary(), FORMATS[name].grammar("</think>", tools, CallPolicy(is_required=True)))

    def is_taken(arguments: str) -> bool:
        constraint = program.start()
        return all(constraint.accept(byte) for byte in text.replace("ARGUMENTS", arguments).encode())

    head = "{kids:[" if name == "gemma4" else '{"kids": ['
    deep = head * 3 + '{"kids": [' * 2 + "ARGUMENTS" + "]}" * 5  # gemma4's deepest values are JSON
    assert is_taken("{}") and is_taken(deep.replace("ARGUMENTS", "{}"))
    assert not is_taken("[]") and not is_taken(deep.replace("ARGUMENTS", "1"))


@pytest.mark.parametrize("name", ["hermes", "qwen3_xml", "gemma4", "lfm2"])
def test_schema_that_branches_out_in_itself_makes_a_small_grammar(name) -> None:
    node = {"type": "object", "properties": {f"k{i}": {"$ref": "#/$defs/node"} for i in range(8)}}
    parameters = {"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    assert len(FORMATS[name].grammar("</think>", [Tool("f", "", parameters)], CallPolicy(is_required=True))) < 20_000


@pytest.mark.parametrize("name", ENFORCED)
def test_hostile_names_are_only_text(name) -> None:
    properties = {'a"b': {"type": "integer"}, "c\nd": {"enum": ['</x>"\\/']}, "e<>": {"type": "boolean"}, "\u2028": {}}
    tools = [Tool('na"me\n/\\', "", {"type": "object", "properties": properties, "required": list(properties)})]
    source = FORMATS[name].grammar("</think>", tools, CallPolicy(is_required=True))
    assert compile_lark(bytes_vocabulary(), source).start().mask()
