"""The parts of regexes."""

from __future__ import annotations

import re

import pytest

from llamafast.chat.response_schema.regex_parts import UnsupportedRegexError, parse_regex, source_of


def kinds(source: str) -> list[str]:
    return [part.kind for part in parse_regex(source)]


def test_pattern_of_literals_and_gaps_has_their_parts() -> None:
    parts = ["start", "option", "text", "capture", "ahead"]
    assert kinds(r"^(?:<a>\n)?<b\|>(.*?)(?=\s*<c>|$)") == parts


@pytest.mark.parametrize("source", [r"\n\t\.\|\\", "a b", r"<x>\{y\}"])
def test_pattern_of_escaped_text_is_the_text_that_it_matches(source: str) -> None:
    (part,) = parse_regex(source)
    assert re.fullmatch(source, part.text)


@pytest.mark.parametrize("source", [r"^<f=([^>\n]+)>\n", r"(?P<key>\w+):\s*(?P<value>.*?);", r"a(?:b)c[\]x]"])
def test_pattern_parts_joined_are_the_pattern(source: str) -> None:
    assert source_of(parse_regex(source)) == source


@pytest.mark.parametrize("source", ["a|b", "a+", r"(a)\1", "(?i)a", "a{2}", "(?<=a)b", r"\bx", ".", "(?:a|b)"])
def test_pattern_with_more_than_gaps_is_too_rich(source: str) -> None:
    with pytest.raises(UnsupportedRegexError):
        parse_regex(source)
