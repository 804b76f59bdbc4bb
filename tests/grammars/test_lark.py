"""Outputs constrained to calls in the syntax of a format: names and arguments by schema, reasoning before them, free
text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import jsonschema
import pytest

from llamafast.chat.enforcing.call_grammar import PromptEnd, call_grammar
from llamafast.chat.enforcing.output_grammar import CallPolicy, ContentConstraint
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError
from llamafast.grammars.guidance import GuidanceProgram
from llamafast.grammars.lark import compile_lark
from tests.grammars.vocabularies import END, bytes_vocabulary
from tests.grammars.walks import LIST, OBJECT_TOOLS, OBJECTS, QUOTED, TAGGED, THINK, TOOL, WORDS, listed, walk

PLAIN = bytes_vocabulary()
CONTROL = bytes_vocabulary("[TOOL_CALLS]", "</think>", "<think>", "<tool_call>", "</tool_call>")
VOCABULARIES = pytest.mark.parametrize("vocabulary", [PLAIN, CONTROL], ids=["text", "control tokens"])
REQUIRED, ONE = CallPolicy(is_required=True), CallPolicy(is_required=True, is_parallel=False)
ELEMENT = re.compile(r"<parameter=(.*?)>\n(.*?)\n?</parameter>\n", re.DOTALL)


def is_valid(arguments: object, tool: Tool) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(tool.parameters, format_checker=checker).is_valid(arguments)


def tool_of(parameters: dict, strict: bool = True) -> Tool:
    return Tool("f", "", parameters, strict)


def element(value: dict, seed: int = 0, words: Sequence[str] = WORDS) -> str:
    """The text between the tags of an argument of this schema."""
    tool = tool_of({"type": "object", "properties": {"x": value}, "required": ["x"]})
    text = walk(PLAIN, TAGGED, [tool], ONE, seed=seed, words=words)
    [(name, written)] = ELEMENT.findall(text)
    assert name == "x"
    return written


@VOCABULARIES
def test_required_calls_in_a_list_name_a_tool_and_meet_its_schema(vocabulary) -> None:
    for seed in range(6):
        calls = listed(walk(vocabulary, LIST, OBJECT_TOOLS[:6], REQUIRED, seed=seed))
        assert calls and all(is_valid(call["arguments"], TOOL[call["name"]]) for call in calls)


def test_one_call_where_they_are_not_parallel_ends_the_output() -> None:
    text = walk(PLAIN, OBJECTS, OBJECT_TOOLS[:3], ONE)
    call = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    assert is_valid(call["arguments"], TOOL[call["name"]])


def test_named_tool_is_the_only_one_called() -> None:
    rules = CallPolicy(is_required=True, names=("calculator",))
    assert {call["name"] for call in listed(walk(PLAIN, LIST, OBJECT_TOOLS, rules, seed=2))} == {"calculator"}


@VOCABULARIES
def test_open_reasoning_ends_before_the_calls(vocabulary) -> None:
    text = walk(vocabulary, LIST, OBJECT_TOOLS[:2], ONE, prompt="<think>\n", seed=1, words=(*WORDS, "</think>"))
    reasoning, _, rest = text.partition("</think>")
    assert reasoning and listed(rest.strip())


@VOCABULARIES
def test_closed_reasoning_is_not_opened_again(vocabulary) -> None:
    texts = [walk(vocabulary, LIST, OBJECT_TOOLS[:2], ONE, prompt="<think>\n\n</think>\n\n", seed=i) for i in range(4)]
    assert {text[: len("[TOOL_CALLS]")] for text in texts} == {"[TOOL_CALLS]"}


def test_reasoning_that_the_model_opens_itself_comes_before_the_call() -> None:
    texts = [walk(PLAIN, LIST, OBJECT_TOOLS[:2], ONE, prompt="", seed=i, words=(*WORDS, "</think>")) for i in range(6)]
    assert {text[0] for text in texts} == {"<", "["}


@VOCABULARIES
def test_text_before_the_marker_is_free_and_after_it_are_calls(vocabulary) -> None:
    words = (*WORDS, "[TOOL_CALLS]", "Hello, ")
    texts = [walk(vocabulary, LIST, OBJECT_TOOLS[:2], CallPolicy(), seed=i, words=words) for i in range(30)]
    heads, calls = zip(*(text.split("[TOOL_CALLS]", 1) for text in texts if "[TOOL_CALLS]" in text), strict=True)
    assert any(heads) and all(listed(call) for call in calls)


def test_calls_inside_reasoning_are_free_text() -> None:
    constraint = compile_lark(
        PLAIN, call_grammar([TAGGED], THINK, PromptEnd(True, False, False), OBJECT_TOOLS[:1], CallPolicy()).source
    )
    started = constraint.start()
    assert all(
        started.accept(byte) for byte in b"I write <tool_call>x.</think>\n\nHi <tool_call>\n<function=get_weather>"
    )
    assert not started.accept(ord("x"))


def test_answer_is_calls_or_json_of_the_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    rules = CallPolicy(answer=ContentConstraint("response_format", schema))
    texts = [walk(PLAIN, LIST, OBJECT_TOOLS[:1], rules, prompt="</think>\n", seed=i) for i in range(8)]
    assert {text[0] for text in texts} == {"[", "{"}
    assert all(json.loads(text)["a"] == 1 for text in texts if text[0] == "{")


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        ({"enum": ["a b", "c\n\"d\""]}, 'a b|c\n"d"'),
        ({"type": "string", "const": "</p"}, "</p"),
        ({"type": "string", "pattern": "^a/[b-d]{2}$"}, "a/[b-d]{2}"),
        ({"type": "string", "pattern": r"^\d+$|^x"}, "[0-9]+|x[^<].*|x"),
        ({"type": "string", "minLength": 2, "maxLength": 4}, "(?s:.){2,4}"),
        ({"type": "string", "format": "uuid"}, "[0-9a-fA-F-]{36}"),
        ({"type": "integer", "minimum": 3, "maximum": 5}, "[345]"),
        ({"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "null"}]}, "a+|null"),
        ({"type": ["boolean", "null"]}, "true|false|null"),
        ({"$ref": "#/$defs/none"}, ""),
        ({"allOf": [{"type": "string"}, {"enum": ["x"]}]}, "x"),
        ({"enum": ["a", 1, None]}, "a|1|null"),
    ],
)  # fmt: skip
def test_value_between_tags_matches_its_schema(value, pattern) -> None:
    if "$ref" in value:
        with pytest.raises(GrammarError, match="points to nothing") as caught:
            element(value)
        assert caught.value.param == "tools[0].function.parameters"
    else:
        assert all(re.fullmatch(pattern, element(value, seed)) for seed in range(3))


def test_string_between_tags_is_free_up_to_the_closing_tag() -> None:
    assert any("<b>" in element({"type": "string"}, seed, ("</parameter>", "<b>")) for seed in range(4))


def test_tagged_arguments_hold_the_required_ones_in_their_order() -> None:
    for seed in range(4):
        text = walk(PLAIN, TAGGED, OBJECT_TOOLS[:4], REQUIRED, seed=seed)
        for call in text.split("<tool_call>")[1:]:
            tool = TOOL[call.partition("=")[2].partition(">")[0]]
            names = [name for name, _ in ELEMENT.findall(call)]
            declared = list(tool.parameters["properties"])
            assert set(tool.parameters["required"]) <= set(names) and names == sorted(names, key=declared.index)


def test_arguments_without_a_schema_are_any_object() -> None:
    assert isinstance(listed(walk(PLAIN, LIST, [Tool("f")], ONE))[0]["arguments"], dict)


@pytest.mark.parametrize("syntax", [LIST, TAGGED], ids=["json", "tagged"])
def test_schema_at_fault_is_named(syntax) -> None:
    bad = tool_of({"type": "object", "properties": {"a": {"type": "string", "pattern": "a{9999}{9999}"}}})
    with pytest.raises(GrammarError) as caught:
        walk(PLAIN, syntax, [OBJECT_TOOLS[0], bad], ONE)
    assert caught.value.param == "tools[1].function.parameters"


def test_what_cannot_be_enforced_is_refused_where_the_tool_is_strict() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "boolean"}}, "minProperties": 1}
    with pytest.raises(GrammarError, match="minProperties"):
        walk(PLAIN, TAGGED, [tool_of(parameters)], ONE)
    assert "<function=f>" in walk(PLAIN, TAGGED, [tool_of(parameters, strict=False)], ONE)


@pytest.mark.parametrize("syntax", [TAGGED, QUOTED], ids=["tagged", "quoted"])
@pytest.mark.parametrize("extra", [{"minProperties": 1}, {"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}])
def test_what_is_dropped_where_the_tool_is_not_strict_is_said(syntax, extra) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "boolean"}}, **extra}
    tools = [tool_of({"type": "object", "properties": {}}), tool_of(parameters, strict=False)]
    source = call_grammar([syntax], THINK, PromptEnd(False, True, False), tools, ONE).source
    [warning] = compile_lark(PLAIN, source).warnings
    assert warning in ("tools[1].function.parameters: minProperties", "tools[1].function.parameters: pattern")


HELD = {"type": "string", "enum": ["a", "x</parameter>"]}
LONG = {"type": "string", "maxLength": 3, "format": "uuid"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (HELD, "a value that holds '</parameter>'"),
        ({"type": "array", "items": {"enum": ["</parameter>"]}, "minItems": 1}, "nsatisfiable"),
        ({"type": "string", "not": {"const": "x"}}, "not"),
        ({"oneOf": [{"type": "string", "maxLength": 5}, {"type": "string", "minLength": 3}]}, "oneOf"),
        ({"anyOf": [{"type": "string", "maxLength": 5}, {"type": "number", "multipleOf": 3}]}, "multipleOf"),
        ({"type": "string", "pattern": "("}, "no string"),
        (LONG, "no string"),
        ({"type": "string", "pattern": r"\bx"}, "pattern"),
        ({"type": "integer", "minimum": 1e30}, "minimum"),
    ],
)
def test_value_that_cannot_be_enforced_is_refused_by_name(value, said) -> None:
    with pytest.raises(GrammarError, match=said) as caught:
        element(value)
    assert caught.value.param == "tools[0].function.parameters"


def test_property_whose_name_the_format_cannot_write_is_refused_by_name() -> None:
    tool = tool_of({"type": "object", "properties": {"a>b": {"type": "integer"}}, "required": ["a>b"]})
    with pytest.raises(GrammarError, match="a property named 'a>b'"):
        walk(PLAIN, TAGGED, [tool], ONE)


def test_name_that_is_text_in_one_alternative_and_a_number_in_another_is_refused() -> None:
    kinds = [
        {"properties": {"k": {"const": k}, "v": v}, "required": ["k", "v"]}
        for k, v in (("s", {"type": "string"}), ("i", {"type": "integer"}))
    ]
    with pytest.raises(GrammarError, match="alternatives of 'v'"):
        walk(PLAIN, TAGGED, [tool_of({"type": "object", "oneOf": kinds})], ONE)


def test_keyword_of_json_arguments_that_llguidance_does_not_enforce_is_named() -> None:
    value = {"type": "object", "properties": {"x": {"not": {}}, "y": {"not": {}, "oneOf": [{}, {}]}}}

    def compiled(strict: bool) -> GuidanceProgram:
        prompt_end, tools = PromptEnd(False, True, False), [tool_of(value, strict=strict)]
        return compile_lark(PLAIN, call_grammar([LIST], THINK, prompt_end, tools, ONE).source)

    assert sorted(compiled(strict=False).warnings) == ["not", "oneOf"]
    with pytest.raises(GrammarError, match=r"^not cannot be enforced$"):
        compiled(strict=True)


@pytest.mark.parametrize("syntax", [TAGGED, QUOTED, LIST], ids=["tagged", "quoted", "json"])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "string", "pattern": r"^\bx"}, "pattern"),
        ({"type": "integer", "minimum": 1e30}, "minimum"),
        ({"type": "number", "multipleOf": -1}, "multipleOf"),
        ({"enum": [[2**60 + 1], [3]]}, ""),
    ],
)
def test_value_of_a_tool_that_is_not_strict_is_written_without_what_cannot_be_enforced(syntax, value, what) -> None:
    tools = [tool_of({"type": "object", "properties": {"x": value}, "required": ["x"]}, strict=False)]
    source = call_grammar([syntax], THINK, PromptEnd(False, True, False), tools, ONE).source
    assert [text for text in compile_lark(PLAIN, source).warnings if what and text.endswith(what)] or not what


def test_answer_schema_at_fault_is_named() -> None:
    rules = CallPolicy(answer=ContentConstraint("guided_json", {"type": "nothing"}))
    with pytest.raises(GrammarError) as caught:
        walk(PLAIN, LIST, OBJECT_TOOLS[:1], rules)
    assert caught.value.param == "guided_json"


def test_no_tool_of_that_name_is_refused() -> None:
    with pytest.raises(GrammarError) as caught:
        walk(PLAIN, LIST, OBJECT_TOOLS, CallPolicy(is_required=True, names=("nobody",)))
    assert caught.value.param == "tool_choice"


def test_tool_whose_name_begins_another_ones_is_called_too() -> None:
    tools = [
        Tool("add", "", {"type": "object", "additionalProperties": False}),
        Tool("add_all", "", {"type": "object"}),
    ]
    names = {listed(walk(PLAIN, LIST, tools, ONE, seed=seed))[0]["name"] for seed in range(8)}
    assert names == {"add", "add_all"}


def test_control_tokens_that_a_schema_names_are_written_as_text() -> None:
    value, name = "x</think>[TOOL_CALLS]", "y[TOOL_CALLS]"
    parameters = {"type": "object", "properties": {name: {"enum": [value]}}, "required": [name]}
    tools = [Tool(value, "", parameters)]
    syntax = replace(TAGGED, arguments=replace(TAGGED.arguments, after_value="</parameter>\n"))
    source = call_grammar([syntax], THINK, PromptEnd(False, True, False), tools, ONE).source
    token_ids = compile_lark(CONTROL, source).start().forced()
    control = [i for i in token_ids if i > END]
    assert control == [CONTROL.control_ids[name] for name in ("<tool_call>", "</tool_call>")]
    text = bytes(i for i in token_ids if i < END).decode()
    assert (text.count(value), text.count(name)) == (2, 1)
