"""Patterns in Lark's syntax."""

from __future__ import annotations

import random
import re

import pytest

from llamafast.json_schema.lark_regex import (
    anchored,
    escaped,
    excluding_character,
    needs_lookaround,
    not_beginning,
    not_containing,
    not_ending_within,
    slashed,
)

WORDS = (
    "]",
    "]]",
    "'",
    "<",
    "/",
    "</p",
    "</parameter",
    ">",
    "</parameter>",
    "a",
    "\n",
    "｜DSML｜",
    "</｜DSML｜parameter>",
)


@pytest.mark.parametrize(
    "texts",
    [["</parameter>"], ["</｜DSML｜parameter>"], ["</parameter>", "<parameter=", "</function>", "</p>", "<b"]],
)
def test_pattern_without_texts_matches_all_that_holds_none_of_them(texts) -> None:
    rng, pattern = random.Random(str(texts)), re.compile(not_containing(*texts))
    for _ in range(3000):
        text = "".join(rng.choice((*WORDS, *texts)) for _ in range(rng.randint(0, 6)))
        assert bool(pattern.fullmatch(text)) == (not any(each in text for each in texts)), text


@pytest.mark.parametrize(
    "pattern", ["^a$|^b", "(^a$)", "^(a|b)$", "a", "^$", "", r"^\d+\$", "[$]", r"^[^\s]$", "^a", "b$", "(?:^a|b$)"]
)
def test_pattern_of_the_whole_string_matches_where_the_pattern_is_found(pattern) -> None:
    wanted = re.compile(pattern.replace("$", r"\Z") if r"\$" not in pattern and "[$]" not in pattern else pattern)
    found = re.compile(anchored(pattern))
    for text in ("", "a", "b", "ab", "ba", "xa", "a\n", "5$", "55$x", "$", " ", "é"):
        assert bool(found.fullmatch(text)) == bool(wanted.search(text)), text


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("(?=a)b", True), ("(?<!a)b", True), (r"\bfoo\b", True), (r"(a)\1", True), (r"\\bfoo", False), (r"[\b(?=]", False),
     ("(?:a)", False), ("(?<name>a)", False)],
)  # fmt: skip
def test_pattern_that_looks_around_is_known(pattern, expected) -> None:
    assert needs_lookaround(pattern) is expected


@pytest.mark.parametrize("text", ["a/b", "a\nb", "\\", "a\tb\r", "[x]{2}^$", "// #", "~&-"])
def test_escaped_text_matches_itself(text) -> None:
    assert re.fullmatch(escaped(text), text)


@pytest.mark.parametrize(
    ("regex", "expected"),
    [("a/b", r"/a\/b/"), (r"a\/b", r"/a\/b/"), ("a\nb", r"/a\nb/"), ("a\\\nb", r"/a\nb/"), ("", "/()/")],
)
def test_slashed_regex_is_one_line_without_slashes(regex, expected) -> None:
    assert slashed(regex) == expected


def test_pattern_that_does_not_begin_with_a_text_matches_all_others() -> None:
    rng, pattern = random.Random(0), re.compile(not_beginning("</parameter>"))
    for _ in range(2000):
        text = "".join(rng.choice(WORDS) for _ in range(rng.randint(0, 4)))
        assert bool(pattern.fullmatch(text)) == (not text.startswith("</parameter>")), text


@pytest.mark.parametrize("text", ["</parameter>", "</｜DSML｜parameter>"])
def test_pattern_that_does_not_end_within_a_text_matches_all_others(text) -> None:
    rng, pattern = random.Random(0), re.compile(not_ending_within(text))
    beginnings = tuple(text[:length] for length in range(2, len(text)))
    for _ in range(3000):
        sample = "".join(rng.choice((*WORDS, *beginnings)) for _ in range(rng.randint(0, 4)))
        assert bool(pattern.fullmatch(sample)) == (not sample.endswith(beginnings)), sample


@pytest.mark.parametrize(
    "pattern",
    [
        "^x-",
        "^[a-z]+$",
        ".",
        "a|b$",
        "^[^x]+$",
        "(?:^a|b$)",
        r"^\S+$",
        r"^[\w.-]+$",
        "^[^<>]+$",
        "[-a]",
        r"^\.|\W$",
        "",
    ],
)
def test_pattern_without_a_character_matches_strings_without_it_alone(pattern) -> None:
    wanted, found = re.compile(pattern), re.compile(excluding_character(pattern, "<") or "(?!)")
    for text in ("x-", "x-<", "abc", "a<", "<b", "a.b-c", "b", "<", "-", "zz>", ".<", "é!"):
        assert bool(found.fullmatch(text)) == ("<" not in text and wanted.search(text) is not None), text


@pytest.mark.parametrize(
    "pattern", ["^<", "a<?", "[<>]", "[!-~]", r"\x3c", r"[\x3c]", r"\u003c", r"[\S]", r"\p{L}", r"[\x20-a]"]
)
def test_pattern_that_may_need_a_character_has_none_without_it(pattern) -> None:
    assert excluding_character(pattern, "<") is None
