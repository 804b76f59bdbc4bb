"""Outputs of every format with one damaged place: the intended call is read, or none that looks complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.messages import MESSAGES, TOOLS, Call, Message
from tests.chat.more_writers import WRITERS

FORMATS = [name for name in registry.names() if name != "plain"]
# The arguments of these formats are bare text. What looks like a brace of the format belongs to a value.
TAGGED = {"deepseek_dsml", "glm", "hunyuan3", "kimi_k3", "minicpm5", "minimax_m2", "minimax_m3", "muse"} | {
    "qwen3_xml",
    "seed_oss",
}
_NESTED = {"filters": {"a": {"b": 1}, "c": 2}, "limit": 3, "query": "x"}
DAMAGED = {
    "two calls": MESSAGES["two calls"],
    "three calls": MESSAGES["three calls"],
    "text around": MESSAGES["text around"],
    "several arguments": Message(calls=(("search", {"query": "a b", "limit": 3, "fuzzy": True}), ("now", {}))),
    "nested": Message(calls=(("search", _NESTED), ("get_weather", {"city": "Rome"}))),
}
_TAG = r"(?:\]<\]minimax\[>\[)?<[^<>\n]*>|\[/?[A-Z_]{3,}\]|```(?:json)?|>>>|Action:"
_is_tag = re.compile(_TAG)
_is_structure = re.compile(_TAG + r'|[][{}(),:"]')

TOOL_NAMES = {tool.name for tool in TOOLS}

Calls = list[tuple[str, dict[str, object]]]


def structures(format: str, text: str) -> list[tuple[int, int]]:
    """The places of the tags and braces of a format."""
    pattern = _is_tag if format in TAGGED else _is_structure
    return [match.span() for match in pattern.finditer(text)]


def deletions(format: str, text: str) -> Iterator[str]:
    for start, end in structures(format, text):
        yield text[:start] + text[end:]
        if text[end : end + 1] == "\n":
            yield text[:start] + text[end + 1 :]


def repetitions(format: str, text: str) -> Iterator[str]:
    for start, end in structures(format, text):
        yield text[:end] + text[start:]
        if text[end : end + 1] == "\n":
            yield text[: end + 1] + text[start:]


def cuts(format: str, text: str) -> Iterator[str]:
    for end in range(0, len(text), 3):
        yield text[:end]


DAMAGES = {"deleted": deletions, "repeated": repetitions, "cut": cuts}


def read(format: str, prompt: str, text: str, *, is_whole: bool = True) -> ParsedMessage:
    return ParsedMessage.of(registry.by_name(format).parser(prompt, TOOLS).read([text] if is_whole else text))


def complete_calls(message: ParsedMessage) -> list[Call]:
    return [(call.name, json.loads(call.arguments)) for call in message.calls if call.is_complete]


def wrong(message: ParsedMessage, meant: tuple[Call, ...]) -> list[object]:
    """Calls that look complete but were not intended."""
    left = list(meant)
    found: list[object] = []
    for name, arguments in complete_calls(message):
        same = next((call for call in left if (call[0], stripped(call[1])) == (name, stripped(arguments))), None)
        if same is not None:
            left.remove(same)
        elif name in TOOL_NAMES:  # no client has a tool of another name
            found.append((name, arguments))
    return found + [call for call in message.calls if not call.is_complete and is_object(call.arguments)]


def stripped(arguments: dict[str, object]) -> dict[str, object]:
    """A line break after a value may belong to the value or to its lost tag."""
    return {key: value.rstrip("\n") if isinstance(value, str) else value for key, value in arguments.items()}


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def check(format: str, damage: str, step: int) -> None:
    found = []
    for opens in (False, True):
        for message in DAMAGED.values():
            written = WRITERS[format](message, opens)
            for i, text in enumerate(DAMAGES[damage](format, written.text)):
                if i % step and damage == "cut":
                    continue
                whole = read(format, written.prompt, text)
                if i % step == 0:
                    assert read(format, written.prompt, text, is_whole=False) == whole, text
                faults = wrong(whole, message.calls)
                found += [(text, faults)] if faults else []
    assert found == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_call_is_the_one_that_was_meant_or_is_not_complete(format: str, damage: str) -> None:
    check(format, damage, step=19)


@pytest.mark.fuzz
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_call_means_the_same_in_pieces_wherever_it_is_damaged(format: str, damage: str) -> None:
    check(format, damage, step=1)


@pytest.mark.parametrize("tag", ["\n/parameter>", "\n<parameter>", "\n</parametr>", "\n</parameter"])
def test_argument_before_something_like_a_closing_tag_is_not_complete(tag: str) -> None:
    text = f"<tool_call>\n<function=run>\n<parameter=code>\na{tag}\n</function>\n</tool_call>"
    assert complete_calls(read("qwen3_xml", "", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "search"}, "arguments": {"query": "x"}}\n</tool_call>',
        '<tool_call>\n{"name": "search", "rguments": {"query": "x"}}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": {}"query": "x"}}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": }{"query": "x"}}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": {"query": "x"}, "arguments": {"query": "y"}}}\n</tool_call>',
    ],
)
def test_call_whose_arguments_stand_beside_it_is_not_complete(text: str) -> None:
    assert complete_calls(read("hermes", "", text)) == []


@pytest.mark.parametrize("format", sorted(TAGGED))
def test_argument_without_its_closing_tag_ends_where_the_next_one_begins(format: str) -> None:
    for text in unclosed(format, "get_weather", {"city": "London", "unit": "celsius"}):
        assert complete_calls(read(format, "", text)) == [("get_weather", {"city": "London", "unit": "celsius"})], text


def unclosed(format: str, name: str, arguments: dict[str, object]) -> list[str]:
    """A call without the closing tag of one value, for each value."""
    text = WRITERS[format](Message(calls=((name, arguments),)), False).text
    found = []
    for value in arguments.values():
        end = text.rindex(str(value)) + len(str(value))
        tag = re.compile(r"\n?(?:\]<\]minimax\[>\[)?<[^<>]*>(?:argument<\|sep\|>)?").match(text, end)
        assert tag is not None
        found.append(text[:end] + text[tag.end() :])
    return found


ZERO = {
    "apertus": ['<|tools_prefix|>[{"now": }]<|tools_suffix|>'],
    "deepseek_v3": [
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n\n```<｜tool▁call▁end｜>",
    ],
    "functionary_v31": ["<function=now></function>"],
    "functionary_v32": [">>>now\n"],
    "gemma4": ["<|tool_call>call:now<tool_call|>", "<|tool_call>call:now{}<tool_call|>"],
    "glm": ["<tool_call>now</tool_call>"],
    "harmony": ["<|channel|>commentary to=functions.now <|constrain|>json<|message|><|call|>"],
    "hermes": [
        f'<tool_call>{{"name": "now"{end}}}</tool_call>' for end in ("", ', "arguments": ', ', "arguments": ""')
    ],
    "kimi_k2": ["<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|><|tool_call_end|>"],
    "kimi_k3": ['<|open|>call tool="now" index="1"<|sep|><|open|>json type="object"<|sep|><|close|>json<|sep|>'],
    "mistral": ["[TOOL_CALLS]now[ARGS]"],
    "solar": ["<|tool_call:begin|>a1<|tool_call:name|>now<|tool_call:args|><|tool_call:end|>"],
}


@pytest.mark.parametrize("format", ZERO)
def test_call_without_any_arguments_of_a_tool_that_needs_none_has_none(format: str) -> None:
    for text in ZERO[format]:
        message = read(format, "assistant\n>>>" if format == "functionary_v32" else "", text.removeprefix(">>>"))
        assert (complete_calls(message), message.content) == ([("now", {})], ""), text


@pytest.mark.parametrize("format", ZERO)
def test_call_without_any_arguments_of_a_tool_that_needs_some_is_not_complete(format: str) -> None:
    if format not in ("glm", "hermes", "gemma4"):  # those may say that there are no arguments
        for text in ZERO[format]:
            assert complete_calls(read(format, "", text.replace("now", "get_weather"))) == []


JSON_TEXTS = {
    '{"code": "a\nb\tc"}': {"code": "a\nb\tc"},
    '{"code": "\\d+\\.x\\\'"}': {"code": "\\d+\\.x'"},
    '{"code": "a"}}': {"code": "a"},
    '{"code": "a"': {"code": "a"},
    "": {},
}


@pytest.mark.parametrize("text", JSON_TEXTS)
@pytest.mark.parametrize(
    ("format", "around"),
    [
        ("hermes", '<tool_call>{"name": "run", "arguments": ARGS}</tool_call>'),
        ("nemotron", '<TOOLCALL>[{"name": "run", "arguments": ARGS}]</TOOLCALL>'),
        ("kimi_k2", "<|tool_call_begin|>functions.run:0<|tool_call_argument_begin|>ARGS<|tool_call_end|>"),
        ("harmony", "<|channel|>commentary to=functions.run <|constrain|>json<|message|>ARGS<|call|>"),
        ("functionary_v31", "<function=run>ARGS</function>"),
        ("solar", "<|tool_call:begin|>a1<|tool_call:name|>run<|tool_call:args|>ARGS<|tool_call:end|>"),
        ("apertus", '<|tools_prefix|>[{"run": ARGS}]<|tools_suffix|>'),
    ],
)
def test_loose_json_is_put_right_where_it_is_clear(format: str, around: str, text: str) -> None:
    for is_whole in (True, False):
        message = read(format, "", around.replace("ARGS", text), is_whole=is_whole)
        assert (complete_calls(message), message.content) == ([("run", JSON_TEXTS[text])], "")


@pytest.mark.parametrize(
    "text",
    [
        '{"filters": {"a": 1, "limit": 3}',  # the place of the missing brace is not clear
        '{"filters": {"a": 1}}, "limit": 3}',
        '{"limit": 3]',
        '{"query": "\\x41"}',
    ],
)
def test_loose_json_that_may_mean_two_things_is_not_complete(text: str) -> None:
    for format, around in (
        ("hermes", '<tool_call>{"name": "search", "arguments": ARGS}</tool_call>'),
        ("kimi_k2", "<|tool_call_begin|>functions.search:0<|tool_call_argument_begin|>ARGS<|tool_call_end|>"),
        ("mistral", "[TOOL_CALLS]search[ARGS]ARGS"),
    ):
        [call] = read(format, "", around.replace("ARGS", text)).calls[:1]
        assert not call.is_complete and not is_object(call.arguments)


CALL = '<|message|>{"city": "Paris"}<|call|>'


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather<|channel|>commentary <|constrain|>json",
        "<|start|>assistant<|start|>assistant<|channel|>commentary to=functions.get_weather json",
        "<|channel|>commentary<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary to=functions.get_weather<|constrain|>json<|constrain|>json",
    ],
)
def test_harmony_header_that_says_things_twice_means_them(header: str) -> None:
    message = read("harmony", "<|start|>assistant", header + CALL)
    assert (complete_calls(message), message.content) == ([("get_weather", {"city": "Paris"})], "")


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("<|channel|>??<|end|><|start|>assistant<|channel|>final<|message|>Hi", "Hi", ""),
        ("<|channel|>final Hi<|end|>", "Hi", ""),
        ("<|channel|>analysis I think<|end|><|start|>assistant<|channel|>final<|message|>Hi", "Hi", "I think"),
        ("<|channel|>??<|message|>Hi<|end|>", "Hi", ""),
        ("<|channel|>commentary to=functions.a to=functions.b<|message|>{}<|call|>", "{}", ""),
        ("<|channel|>??", "", ""),
        ("<|channel|>commentary to=functions.<|message|>{}<|call|>", "{}", ""),
    ],
)
def test_harmony_header_that_is_malformed_shows_no_markup(text: str, content: str, reasoning: str) -> None:
    for is_whole in (True, False):
        message = read("harmony", "<|start|>assistant", text, is_whole=is_whole)
        assert (message.content, message.reasoning, message.calls) == (content, reasoning, [])


def test_harmony_header_without_its_end_is_over_where_an_object_begins() -> None:
    message = read("harmony", "<|start|>assistant", '<|channel|>commentary to=functions.run json{"code": "a"}<|call|>')
    assert complete_calls(message) == [("run", {"code": "a"})]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("see <parameter=x> there\n</parameter>\n", {"code": "see <parameter=x> there"}),
        ("</function> is Lua's\n</parameter>\n", {"code": "</function> is Lua's"}),
        ("a\n</tool_call> b\n</parameter>\n", {"code": "a\n</tool_call> b"}),
    ],
)
def test_tags_that_a_value_names_are_its_own(text: str, arguments: dict[str, object]) -> None:
    written = f"<tool_call>\n<function=run>\n<parameter=code>\n{text}</function>\n</tool_call>"
    assert complete_calls(read("qwen3_xml", "", written)) == [("run", arguments)]


QWEN = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n{}</function>\n</tool_call>"
K3 = '<|open|>call tool="run" index="1"<|sep|><|open|>argument ky="code" type="string"<|sep|>a<|close|>argument<|sep|>'


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("qwen3_xml", QWEN.format("<parameter=other>\n3\n</parameter>\n")),  # the tool declares no such argument
        ("qwen3_xml", QWEN.format("</parameter>\n</function>\n<parameter=unit>\ncelsius\n</parameter>\n")),
        ("kimi_k3", K3 + "<|close|>call<|sep|>"),  # the argument has no name
        ("mistral", '[TOOL_CALLS][{"name": "run", "arguments": {"code": "a", "id": "abcDEF123"}]'),
    ],
)
def test_call_with_a_part_that_may_belong_elsewhere_is_not_complete(format: str, text: str) -> None:
    [call] = read(format, "", text).calls[:1]
    assert not call.is_complete and not is_object(call.arguments)
