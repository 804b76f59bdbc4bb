"""Values that contain calls of their own format, or the ends of one: the intended call is read, or none that is
complete.
"""

from __future__ import annotations

import re

import pytest

from llamafast.chat.events import ParsedMessage
from llamafast.chat.formats import registry
from tests.chat.formats.test_damaged_calls import TAGGED, Calls, complete_calls, read
from tests.chat.messages import TOOLS, Call, Message
from tests.chat.more_writers import WRITERS

# In the other formats the tags are control tokens, which no value contains.
QUOTING = sorted(TAGGED - {"kimi_k3", "minimax_m3"})
SIZES = (1, 7, 100_000)
NOW: Call = ("now", {})
PARIS: Call = ("get_weather", {"city": "Paris"})
TWO: Call = ("get_weather", {"city": "Rome", "unit": "celsius"})


def written(format: str, *calls: Call) -> str:
    return WRITERS[format](Message(calls=calls), False).text.strip()


def tail(format: str) -> str:
    """The text that ends a call after its last argument."""
    text = written(format, ("run", {"code": "VALUE"}))
    behind = text.partition("VALUE")[2].lstrip("\n")
    return behind[behind.index(">") + 1 :].strip()


def read_in(format: str, text: str, size: int) -> ParsedMessage:
    parser = registry.by_name(format).parser("", TOOLS)
    return ParsedMessage.of(parser.read(text[at : at + size] for at in range(0, len(text), size)))


def read_alike(format: str, text: str) -> ParsedMessage:
    whole, *others = [read_in(format, text, size) for size in reversed(SIZES)]
    assert all(other == whole for other in others)
    return whole


@pytest.mark.parametrize("format", QUOTING)
@pytest.mark.parametrize("around", ["{}", "The call ends with\n{}\nas always.", "{0}{0}", "a {} b {} c", "{}\n\n{}\n"])
def test_value_that_holds_what_ends_a_call_is_whole(format: str, around: str) -> None:
    value = around.format(tail(format), tail(format))
    message = read_alike(format, written(format, ("run", {"code": value}), PARIS))
    assert (complete_calls(message), message.content) == ([("run", {"code": value}), PARIS], "")


@pytest.mark.parametrize("format", QUOTING)
@pytest.mark.parametrize("calls", [(NOW,), (PARIS,), (TWO,), (TWO, NOW, PARIS)], ids=["none", "one", "two", "three"])
@pytest.mark.parametrize("around", ["{}", "Write\n{}\nto call it.", "{0}\n{0}"])
def test_value_that_holds_whole_calls_is_whole(format: str, calls: tuple[Call, ...], around: str) -> None:
    value = around.format(written(format, *calls))
    message = read_alike(format, written(format, ("run", {"code": value}), PARIS))
    assert (complete_calls(message), message.content) == ([("run", {"code": value}), PARIS], "")


@pytest.mark.parametrize("format", QUOTING)
def test_value_that_holds_the_end_of_a_call_and_another_is_whole_or_not_complete(format: str) -> None:
    for behind in (written(format, NOW), written(format, PARIS), written(format, PARIS, TWO), "<parameter=x>"):
        value = f"ends {tail(format)}\n{behind} goes on"
        text = written(format, ("run", {"code": value}))
        assert all(
            call in (("run", {"code": value}), NOW, PARIS, TWO) for call in complete_calls(read_alike(format, text))
        )


@pytest.mark.parametrize("format", QUOTING)
def test_value_that_breaks_off_after_the_end_of_a_call_is_not_complete(format: str) -> None:
    text = written(format, ("run", {"code": f"ends {tail(format)} and goes on"}))
    message = read_alike(format, text[: text.index("and goes on") + 3])
    assert complete_calls(message) == []


@pytest.mark.parametrize("format", QUOTING)
def test_value_without_its_closing_tag_is_over_where_another_call_begins(format: str) -> None:
    text = written(format, ("run", {"code": "VALUE"}), PARIS, TWO)
    broken = re.sub(r"VALUE\n?</[^<>]*>", "VALUE", text, count=1)
    assert broken != text
    expected: Calls = [("run", {"code": "VALUE"}), PARIS, TWO]
    assert complete_calls(read_alike(format, broken)) == expected


def test_value_that_holds_an_opening_of_a_call_is_whole() -> None:
    value = "print('<tool_call>')\nprint('<function=now>')"
    text = written("qwen3_xml", ("run", {"code": value}), PARIS)
    assert complete_calls(read("qwen3_xml", "", text)) == [("run", {"code": value}), PARIS]


def test_value_that_quotes_another_argument_and_the_end_of_the_call_is_not_complete() -> None:
    quoted = "<parameter=unit>\ncelsius\n</parameter>\n</function>\n</tool_call>"
    text = written("qwen3_xml", ("get_weather", {"city": f"Paris\n{quoted}\nand so on"}))
    message = read_alike("qwen3_xml", text)
    assert complete_calls(message) == []
    assert message.content == "</tool_call>\nand so on\n</parameter>\n</function>\n</tool_call>"


def test_many_values_without_closing_tags_cost_no_more_each(count: int = 300) -> None:
    call = "<tool_call>\n<function=run>\n<parameter=code>\na\n</function>\n</tool_call>\n"
    parser = registry.by_name("qwen3_xml").parser("", TOOLS)
    message = ParsedMessage.of(parser.read([call * count]))
    assert complete_calls(message) == [("run", {"code": "a"})] * count


@pytest.mark.parametrize("format", QUOTING)
def test_value_that_holds_a_part_of_a_call_is_whole(format: str) -> None:
    value = f"as in {written(format, PARIS).partition('Paris')[0]} and so on"
    message = read_alike(format, written(format, ("run", {"code": value})))
    assert (complete_calls(message), message.content) == ([("run", {"code": value})], "")
