"""with_empty_turns: a template that requires a turn gets it, and every text of the conversation is shown."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.chat.prompt.history import template_messages
from llamafast.chat.prompt.template_traits import TemplateTraits

BOTH = frozenset({"user", "assistant"})
# One counts neither calls nor results (Mistral), one counts all messages (Gemma 2).
UNCOUNTED = {
    "single_roles": BOTH, "user_after_result": False, "user_first": frozenset({"text"}), "text_beside": False,
    "late_systems": False,
}  # fmt: skip
COUNTED = {
    "single_roles": BOTH,
    "user_first": frozenset({"text", "calls"}),
    "late_systems": False,
    "lone_results": False,
    "needs_user": True,
}
ROLES = {"s": "system", "u": "user", "a": "assistant", "c": "assistant", "r": "tool"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def message(text: str) -> dict[str, object]:
    """A message of the role that the first letter names; "c" is a call."""
    if text[0] == "c":
        return {"role": "assistant", "content": None, "tool_calls": [CALL]}
    return {"role": ROLES[text[0]], "content": text[1:] and text}


def shown(conversation: str, **traits) -> str:
    """The turns as words: the text of each, or the letter of its role; "c" is a call."""
    turns = template_messages([message(text) for text in conversation.split()], replace(TemplateTraits(), **traits))
    return " ".join(
        f"{turn['content'] or ''}c"
        if turn.get("tool_calls")
        else str(turn["content"] or str(turn["role"])[0]).replace("\n\n", "+")
        for turn in turns
    )


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ("u1 c r1 u2", "u1 c r1 a u2"),
        ("u1 c r1 u2 c r2 u3", "u1 c r1 a u2 c r2 a u3"),
        ("u1 c r1 a1 u2", "u1 c r1 a1 u2"),
        ("u1 c u2", "u1 c a u2"),
        ("u1 c u2 r1", "u1 c a u2 r1"),
        ("u1 r1 u2", "u1 r1 a u2"),
        ("s1 a1 u1", "s1 u a1 u1"),
        ("a1", "u a1"),
        ("c r1 a1", "u c r1 a1"),
        ("c r1 u1", "c r1 u1"),
        ("r1 a1 u1", "u r1 a1 u1"),
        ("u1 a1 c r1", "u1 a1 c r1"),
        ("u1 a1 c r1 a2", "u1 a1 c r1 u a2"),
        ("u1 u2 a1 a2 u3", "u1+u2 a1+a2 u3"),
    ],
)
def test_silences_where_calls_and_results_are_no_turns(conversation, expected):
    assert shown(conversation, **UNCOUNTED) == expected


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [("a1 u1", "u a1 u1"), ("c u1", "u c u1"), ("u1 c a1", "u1 c u a1"), ("u1 c r1 r2 a1", "u1 c r1 r2 a1"),
     ("s1", "s1 u"), ("s1 a1", "s1 u a1")],
)  # fmt: skip
def test_silences_where_all_are_turns(conversation, expected):
    assert shown(conversation, **COUNTED) == expected


def test_silences_of_an_answer_without_text_are_the_filler():
    assert shown("u1 a u2", filler="...") == "u1 ... u2"
    assert shown("u1 c r1 u2", **UNCOUNTED, filler="...") == "u1 c r1 ... u2"
    assert shown("u1 c r1", filler="...") == "u1 c r1"


@pytest.mark.parametrize("conversation", ["u1 c r1 u2", "a1 u1", "c r1", "a1", "s1", "u1 a u2", ""])
def test_silences_none_where_the_template_takes_all(conversation):
    assert shown(conversation) == conversation


def test_history_lone_result_without_a_name_is_the_users_where_the_template_needs_one():
    assert shown("u1 r1", nameless_results=False) == "u1 Result of a tool:+r1"
    assert shown("u1 c r1", nameless_results=False) == "u1 c r1"


@given(st.lists(st.sampled_from("suacr"), max_size=9), st.sampled_from([{}, UNCOUNTED, COUNTED]))
def test_silences_lose_no_text(letters, traits):
    texts = [f"{letter}{i}" for i, letter in enumerate(letters)]
    words = shown(" ".join(texts), **traits)
    assert [text for text in texts if text[0] != "c" and text not in words] == []


@given(st.lists(st.sampled_from("suacr"), max_size=9), st.sampled_from([UNCOUNTED, COUNTED]))
def test_silences_make_turns_alternate(letters, traits):
    turns = template_messages([message(f"{x}{i}") for i, x in enumerate(letters)], replace(TemplateTraits(), **traits))
    counted = [
        turn["role"]
        for turn in turns
        if turn["role"] != "system"
        and (traits is COUNTED or turn["role"] == "user" or (turn["role"] == "assistant" and "tool_calls" not in turn))
    ]
    assert counted[:1] != ["assistant"]
    in_a_row = [pair for pair in pairwise(counted) if pair[0] == pair[1] != "tool"]
    assert in_a_row == []
