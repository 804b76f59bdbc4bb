"""System messages are where the template shows them, and no text is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.chat.prompt.history import template_messages
from llamafast.chat.prompt.template_traits import TemplateTraits

ONE_HEAD = {"several_systems": False, "late_systems": False}
ALL = [
    {},
    {"several_systems": False},
    {"late_systems": False},
    ONE_HEAD,
    {"knows_developer": True, **ONE_HEAD},
    {"shows_system": False, **ONE_HEAD, "single_roles": frozenset({"user", "assistant"}), "user_after_result": False},
    {"shows_results": False, "lone_results": False, **ONE_HEAD},
]


def say(text: str, **fields) -> dict[str, object]:
    """A message of the role that the first letter of its text names."""
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    return {"role": roles[text[0]], "content": text, **fields}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def placed(*texts: str | dict[str, object], **traits) -> list[str]:
    """The contents of the turns, each after the first letter of its role."""
    messages = [say(text) if isinstance(text, str) else text for text in texts]
    turns = template_messages(messages, replace(TemplateTraits(), **traits))
    return [f"{turn['role'][0]}:{turn['content']}" for turn in turns]


def test_systems_stay_where_the_template_shows_them() -> None:
    assert placed("s1", "d2", "u1", "a1", "s3", "u2", knows_developer=True) == [
        "s:s1", "d:d2", "u:u1", "a:a1", "s:s3", "u:u2",
    ]  # fmt: skip


@pytest.mark.parametrize("second", ["s2", "d2"])
@pytest.mark.parametrize("knows_developer", [False, True])
def test_systems_at_the_head_are_one_where_the_template_shows_one(second: str, knows_developer: bool) -> None:
    traits = {**ONE_HEAD, "knows_developer": knows_developer}
    assert placed("s1", second, "u1", **traits) == [f"s:s1\n\n{second}", "u:u1"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("s1", "u1", "a1", "s2", "u2"), ["s:s1", "u:u1", "a:a1", "u:s2\n\nu2"]),
        (("u1", "a1", "s2", "d3", "u2"), ["u:u1", "a:a1", "u:s2\n\nd3\n\nu2"]),
        (("u1", "s2"), ["u:u1\n\ns2"]),
        (("u1", "s2", "a1"), ["u:u1\n\ns2", "a:a1"]),
        (("u1", "a1", "s2"), ["u:u1", "a:a1", "u:s2"]),
        (("u1", CALLING, "t1", "s2"), ["u:u1", "a:", "t:t1", "u:s2"]),
        (("u1", CALLING, "s2", "t1", "a1"), ["u:u1", "a:", "t:t1", "u:s2", "a:a1"]),
    ],
)
def test_late_systems_are_in_the_next_message_of_the_user(texts, expected: list[str]) -> None:
    assert placed(*texts, **ONE_HEAD) == expected


def test_late_systems_after_results_are_in_the_first_message_where_the_template_takes_no_user_there() -> None:
    traits = {**ONE_HEAD, "user_after_result": False}
    assert placed("s1", "u1", CALLING, "t1", "s2", **traits) == ["s:s1\n\ns2", "u:u1", "a:", "t:t1"]
    assert placed("u1", CALLING, "t1", "s2", "a1", **traits) == ["u:u1\n\ns2", "a:", "t:t1", "a:a1"]


def test_systems_between_a_call_and_its_results_come_after_them_everywhere() -> None:
    assert placed("u1", CALLING, "s2", "t1", "u2") == ["u:u1", "a:", "t:t1", "s:s2", "u:u2"]


def test_systems_are_the_users_words_where_the_template_shows_none() -> None:
    traits = {**ONE_HEAD, "shows_system": False}
    assert placed("s1", "s2", "u1", **traits) == ["u:s1\n\ns2\n\nu1"]
    assert placed("s1", "a1", "u1", **traits) == ["u:s1", "a:a1", "u:u1"]
    assert placed("s1", **traits) == ["u:s1"]


def test_rows_of_one_speaker_are_one_turn_where_the_template_refuses_two() -> None:
    traits = {"single_roles": frozenset({"user", "assistant"})}
    assert placed("u1", "u2", "a1", "a2", "u3", **traits) == ["u:u1\n\nu2", "a:a1\n\na2", "u:u3"]
    assert placed("u1", "u2", "a1", "a2", "u3") == ["u:u1", "u:u2", "a:a1", "a:a2", "u:u3"]


def test_systems_in_parts_are_joined_as_parts() -> None:
    first = {"role": "system", "content": [{"type": "text", "text": "s1"}]}
    (turn,) = template_messages([first, say("s2")], replace(TemplateTraits(), **ONE_HEAD))
    assert turn["content"] == "s1\n\n\n\ns2"
    part_roles = frozenset({"system"})
    (turn,) = template_messages([first, say("s2")], replace(TemplateTraits(), **ONE_HEAD, part_roles=part_roles))
    assert turn["content"] == [{"type": "text", "text": text} for text in ("s1", "\n\n", "s2")]


@given(
    st.lists(st.sampled_from(["s", "d", "u", "a", "t", "c"]), max_size=8),
    st.sampled_from(ALL),
)
def test_texts_of_all_messages_are_there_once_for_any_traits(letters: list[str], traits: dict[str, object]) -> None:
    texts = [f"{letter}{i}" for i, letter in enumerate(letters)]
    messages = [{**CALLING, "content": text} if text[0] == "c" else say(text) for text in texts]
    shown = " ".join(placed(*messages, **traits)) + " "
    assert [shown.count(text) for text in texts] == [1] * len(texts)
