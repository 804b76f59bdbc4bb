"""The text for a custom tool, out of arguments that come in pieces; and reasoning that is sealed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.responses.custom_input import CustomInput
from llamafast.responses.sealed import Seal

TEXTS = st.lists(st.sampled_from(["a", '"', "\\", "\n", "é", "😀", "\\u", "{", "}", " ", "\x00"]), max_size=12).map(
    "".join
)


def read(pieces) -> tuple[list[str], str]:
    reader = CustomInput()
    deltas = [reader.feed(piece) for piece in pieces]
    return deltas, "".join(deltas) + reader.finish()


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, size=st.integers(1, 5), ascii_only=st.booleans())
def test_input_cut_anywhere_is_the_text(text, size, ascii_only):
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    assert read(arguments[i : i + size] for i in range(0, len(arguments), size))[1] == text


def test_input_comes_as_it_is_written():
    deltas, _ = read(['{"inp', 'ut": "ls', " -l", '"}'])
    assert deltas == ["", "ls", " -l", ""]


def test_input_that_is_cut_gives_what_was_there():
    assert read(['{"input": "ls -'])[1] == "ls -"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"command": "ls"}', '{"command": "ls"}'), ('{"x": 1, "input": "ls"}', "ls"), ("", ""), ("[1", "[1")],
)
def test_arguments_of_another_shape_are_the_input(arguments, text):
    assert read([arguments])[1] == text


@given(text=st.text(max_size=50))
def test_seal_opens_what_it_closed(text):
    seal = Seal(b"key")
    assert seal.open(seal.close(text)) == text


@pytest.mark.parametrize("sealed", ["", "!", "aaaa", Seal(b"other").close("x"), Seal(b"key").close("x")[:-4] + "AAAA"])
def test_seal_opens_nothing_else(sealed):
    assert Seal(b"key").open(sealed) is None
