"""ReasoningSplitter: the same parts however the text is cut; and which prompts leave reasoning open."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.parsing.reasoning import ReasoningSplitter, leaves_reasoning_open

TEXT = st.lists(st.sampled_from(["</think>", "</thi", "<think>", "</", "nk>", "\n", " ", "a", "é{}", "🦙"])).map(
    "".join
)


def parts(pieces) -> tuple[str, str, int | None]:
    splitter = ReasoningSplitter()
    added = [splitter.add(piece) for piece in pieces]
    reasoning = "".join(reasoning for reasoning, _ in added) + splitter.flush()
    return reasoning, "".join(content for _, content in added), splitter.content_start


@given(TEXT, st.data())
def test_splitter_any_cut_equals_the_whole(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)) | {0, len(text)})
    whole = parts([text])
    assert parts(list(text)) == whole
    assert parts([text[i:j] for i, j in pairwise(cuts)]) == whole


@given(TEXT)
def test_splitter_whole_text_is_parted_at_the_first_tag(text):
    before, tag, after = text.partition("</think>")
    assert parts([text]) == (before.strip(), after, len(before) + len(tag) if tag else None)


def test_splitter_gives_reasoning_out_as_it_comes():
    splitter = ReasoningSplitter()
    pieces = ["\n", "so", " ", "far", "\n</th", "x", "</think>", "\n", '{"a"', ":1}"]
    assert [splitter.add(piece) for piece in pieces] == [
        ("", ""), ("so", ""), ("", ""), (" far", ""), ("", ""), ("\n</thx", ""), ("", ""),
        ("", "\n"), ("", '{"a"'), ("", ":1}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "continued", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", None, True),
        ("<|im_start|>assistant\n<think>", None, True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None, False),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", None, False),
        ("<|im_start|>assistant\n<think>\nhm", "<think>\nhm", True),
        ("<|im_start|>assistant\n<think>\nhm</think>{", "<think>\nhm</think>{", False),
        ("<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n{", "{", False),
    ],
)
def test_prompt_that_ends_inside_a_block_leaves_it_open(prompt, continued, expected):
    assert leaves_reasoning_open(prompt, continued) is expected
