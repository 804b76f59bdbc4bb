"""Prompts that leave reasoning open, and others."""

from __future__ import annotations

import pytest

from llamafast.chat.prompt.reasoning_state import leaves_reasoning_open
from llamafast.chat.reasoning_tags import ReasoningTags

TAGS = ReasoningTags("<think>", "</think>")


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
    assert leaves_reasoning_open(prompt, TAGS, continued) is expected
