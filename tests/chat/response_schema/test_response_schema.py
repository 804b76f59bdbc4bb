"""Response schemas: the results for whole texts and for texts in pieces."""

from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.chat.events import Content, ParsedMessage
from llamafast.chat.response_schema.format import ResponseSchemaFormat
from llamafast.chat.response_schema.message import message_events
from llamafast.chat.response_schema.schema_nodes import compile_schema
from llamafast.chat.tools import Tool
from tests.chat.response_schemas import CHANNELS, ELEMENTS, FAMILIES, LOOSE, Arguments, Family

PARAMETERS = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "number": {"type": "integer"},
        "flag": {"type": ["boolean", "null"]},
        "tree": {"type": "object"},
    },
}
TOOLS = [Tool("find", "", PARAMETERS), Tool("noop")]
VALUES: dict[str, object] = {
    "text": 'a\n"b" \\ 😀',
    "number": -3,
    "flag": None,
    "tree": {"x": [True, None, "é"], "y": {}},
}
CALL = ("find", VALUES)

words = st.text("ab<>{}\"'\\\n é😀", max_size=12).map(str.strip)
values = st.fixed_dictionaries(
    {},
    optional={
        "text": words,
        "number": st.integers(-99, 99),
        "flag": st.booleans() | st.none(),
        "tree": st.dictionaries(st.sampled_from("xyz"), st.lists(st.booleans() | words, max_size=2), max_size=2),
    },
)
calls = st.lists(st.tuples(st.sampled_from(["find"]), values), max_size=3)


def parse(family: Family, text: str, cuts: Sequence[int] = (), prompt: str | None = None) -> ParsedMessage:
    """The message of a text in pieces. Each piece of content is at its offset."""
    parser = ResponseSchemaFormat(family.schema).parser(family.prompt if prompt is None else prompt, TOOLS)
    ends = [*sorted(cuts), len(text)]
    events = [event for start, end in zip([0, *ends], ends, strict=False) for event in parser.feed(text[start:end])]
    assert all(text.startswith(event.text, event.start) for event in events if isinstance(event, Content))
    return ParsedMessage.of([*events, *parser.finish()])


def told(message: ParsedMessage) -> tuple[object, ...]:
    return (message.reasoning, message.content, [(call.name, json.loads(call.arguments)) for call in message.calls])


def cuts_of(text: str, seed: int) -> list[int]:
    return random.Random(seed).choices(range(len(text) + 1), k=8)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(reasoning=words, content=words, calls=calls, seed=st.integers(0, 999))
def test_schema_of_any_answer_streams_what_it_gives_exactly(
    family: Family, reasoning: str, content: str, calls: list[tuple[str, Arguments]], seed: int
) -> None:
    text = family.write(reasoning, content, calls)
    turn = family.prompt[family.prompt.rfind("<|me") :]
    exact = ParsedMessage.of(message_events(compile_schema(family.schema), turn + text, len(turn), TOOLS))
    expected = (reasoning, content, [(name, dict(arguments)) for name, arguments in calls])
    assert told(exact) == told(parse(family, text)) == told(parse(family, text, cuts_of(text, seed))) == expected


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_schema_of_a_call_streams_its_arguments_before_its_end(family: Family) -> None:
    text = family.write("hm", "", [CALL])
    parser = ResponseSchemaFormat(family.schema).parser(family.prompt, TOOLS)
    message = ParsedMessage.of(parser.feed(text[: text.index("b")]))
    assert message.reasoning == "hm"
    assert message.calls[0].arguments.startswith('{"text":')


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_schema_of_a_broken_off_call_tells_what_there_was(family: Family) -> None:
    text = family.write("", "", [CALL])
    call = parse(family, text[: text.index("b")]).calls[0]
    assert (call.name, call.is_complete) == ("find", False)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_schema_of_a_call_without_its_last_token_completes_it(family: Family) -> None:
    text = family.write("", "", [CALL])
    end = max(text.rfind("\n</use>"), text.rfind("<use|>"), text.rfind("<|go|>"))
    call = parse(family, text[:end]).calls[0]
    assert (call.is_complete, json.loads(call.arguments)) == (True, VALUES)


def test_schema_of_broken_off_reasoning_is_reasoning() -> None:
    assert parse(ELEMENTS, "I am still").reasoning == "I am still"


def test_schema_of_begun_marker_at_the_end_is_content() -> None:
    assert parse(ELEMENTS, "</muse>if a <us").content == "if a <us"


@pytest.mark.parametrize(("family", "text"), [(ELEMENTS, "</muse>Hi <|out|>"), (LOOSE, "Hi <me|>")])
def test_schema_of_content_with_its_end_token_keeps_the_space_before(family: Family, text: str) -> None:
    assert parse(family, text).content == "Hi "


def test_schema_of_malformed_call_is_content() -> None:
    assert parse(ELEMENTS, "</muse><use>\nfind it\n</use>").content == "<use>\nfind it\n</use>"


def test_schema_of_text_after_a_call_is_content() -> None:
    message = parse(ELEMENTS, ELEMENTS.write("", "Before", [CALL, CALL]) + "\n\nBehind")
    assert (message.content, len(message.calls)) == ("BeforeBehind", 2)


def test_schema_of_a_call_begun_in_the_prompt_tells_it() -> None:
    message = parse(ELEMENTS, "<arg=number>\n5\n</arg>\n</fn>\n</use>", prompt="<|me|>bot\n<use>\n<fn=find>\n")
    assert told(message) == ("", "", [("find", {"number": 5})])


def test_schema_of_an_answer_after_an_older_call_tells_only_the_answer() -> None:
    prompt = LOOSE.prompt + LOOSE.write("", "", [CALL]) + "<|back>3<back|>"
    assert told(parse(LOOSE, "Three.", prompt=prompt)) == ("", "Three.", [])


def test_schema_of_text_that_it_does_not_know_is_content() -> None:
    assert parse(CHANNELS, "<|on|>hum<|is|>la la").content == "<|on|>hum<|is|>la la"


def test_schema_without_tools_keeps_calls_as_content() -> None:
    text = LOOSE.write("", "Hi", [CALL])
    parser = ResponseSchemaFormat(LOOSE.schema).parser(LOOSE.prompt, None)
    message = ParsedMessage.of(parser.read([text]))
    assert (message.content, message.calls) == (text, [])


def test_schema_of_json_message_is_applied_at_the_end_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    schema = {
        "type": "object",
        "x-parser": "json",
        "properties": {"content": {"type": "string"}, "tool_calls": {"type": "array"}},
    }
    text = '{"content": "Hi", "tool_calls": [{"name": "find", "arguments": {"flag": null, "number": 1}}]}'
    with caplog.at_level(logging.INFO):
        message = parse(Family(schema, ""), text, cuts=[5, 9])
    assert told(message) == ("", "Hi", [("find", {"flag": None, "number": 1})])
    assert "at an answer's end" in caplog.text


def test_schema_of_json_message_gives_content_unescaped() -> None:
    schema = {"type": "object", "x-parser": "json", "properties": {"content": {"type": "string"}}}
    assert parse(Family(schema, ""), '{"content": "a\\n\\"b\\""}').content == 'a\n"b"'


def test_schema_of_json_items_keeps_their_values() -> None:
    schema = copy.deepcopy(ELEMENTS.schema)
    schema["properties"]["tool_calls"]["items"] = {"type": "object", "x-parser": "json"}  # type: ignore[index]
    text = '</muse>Hi<use>\n{"name": "find", "arguments": {"text": "1", "flag": true}}\n</use>'
    assert told(parse(Family(schema, ELEMENTS.prompt), text)) == ("", "Hi", [("find", {"text": "1", "flag": True})])


def test_schema_of_named_groups_gives_arguments_the_types_of_the_tool() -> None:
    schema = copy.deepcopy(ELEMENTS.schema)
    function = schema["properties"]["tool_calls"]["items"]["properties"]["function"]  # type: ignore[index]
    function["properties"]["name"]["x-regex"] = r"^(\w+)"
    function["properties"]["arguments"] = {
        "type": "object",
        "x-regex": r"text=(?P<text>\w+) number=(?P<number>\d+)",
        "additionalProperties": True,
    }
    text = "</muse><use>\nfind text=12 number=5\n</use>"
    assert told(parse(Family(schema, ELEMENTS.prompt), text)) == ("", "", [("find", {"text": "12", "number": 5})])


def test_schema_with_a_regex_of_everything_streams_content() -> None:
    schema = {"type": "object", "properties": {"content": {"type": "string", "x-regex": "^(.*)$"}}}
    parser = ResponseSchemaFormat(schema).parser("", None)
    assert parser.feed("Hi") == [Content("Hi", 0)]


def test_schema_that_describes_harmony_knows_all_its_headers() -> None:
    schema = {
        "type": "object",
        "properties": {
            "content": {"type": "string", "x-regex": r"<\|channel\|>final<\|message\|>(.*?)(?=<\|return\|>|$)"},
            "tool_calls": {
                "type": "array",
                "x-regex-iterator": r"<\|channel\|>commentary to=functions\.(.*?)<\|call\|>",
            },
        },
    }
    message = parse(Family(schema, "<|start|>assistant"), " to=functions.find<|channel|>commentary json<|message|>{}")
    assert told(message) == ("", "", [("find", {})])


def test_schema_of_tokens_in_regexes_shows_them_to_the_parser() -> None:
    assert set(ResponseSchemaFormat(LOOSE.schema).markers) >= {"<|side>", "<side|>", "<|use>", "<use|>", '<|"|>'}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("x-regex", "(", "response_schema.properties.content.x-regex"),
        ("x-regex-iterator", "a", "x-regex-iterator needs type array"),
        ("type", "text", "response_schema.properties.content.type: 'text'"),
        ("x-parser", "yaml", "'yaml' is unknown; the known parsers are json, gemma4-tool-call"),
        ("oneOf", {}, "response_schema.properties.content.oneOf: must be a list"),
    ],
)
def test_schema_that_is_not_valid_raises_with_the_place(place: str, value: object, message: str) -> None:
    schema = copy.deepcopy(ELEMENTS.schema)
    schema["properties"]["content"][place] = value  # type: ignore[index]
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        ResponseSchemaFormat(schema)
