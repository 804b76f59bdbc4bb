"""ControlTexts: only control texts of the template are parsed, whatever a client writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafast.chat.prompt import control_texts as module
from llamafast.chat.prompt.control_texts import ControlTexts, new_mark
from llamafast.chat.prompt.turns import TrustedText

MARK = "\0"
TEXTS = ControlTexts(["<|a|>", "<|a", "</s>", "<think>", "[X]", "~"])
ALPHABET = st.text(st.sampled_from("<|a>/s[X]~ "), max_size=12)


def rendered(*pieces: tuple[str, bool]) -> list[tuple[str, bool]]:
    """The segments of a text made of pieces of the client (False) and of the template (True)."""
    marked = "".join(text if is_own else str(TEXTS.mark(text, MARK)) for text, is_own in pieces)
    return TEXTS.segments(marked, MARK)


def control_texts(segments: list[tuple[str, bool]]) -> list[str]:
    """The texts that a tokenizer turns into control tokens, the longest first at each offset."""
    found: list[str] = []
    for text, parse_special in segments:
        place = 0
        while parse_special and place < len(text):
            here = max((t for t in TEXTS.texts if text.startswith(t, place)), key=len, default="")
            found += [here] if here else []
            place += len(here) or 1
    return found


def test_segments_text_of_the_client_is_not_parsed() -> None:
    assert rendered(("<|a|>", True), ("hi <|a|> there", False), ("<|a|>", True)) == [
        ("<|a|>", True),
        ("hi <|a|> there", False),
        ("<|a|>", True),
    ]


def test_segments_text_without_marks_is_one_piece() -> None:
    assert rendered(("<|a|>x<|a|>", True), ("plain", False)) == [("<|a|>x<|a|>plain", True)]


@pytest.mark.parametrize("pieces", [("<|", "a|>"), ("<", "|a|>"), ("x<|a", "|>"), ("[", "X]"), ("<|a|", ">")])
def test_segments_text_put_together_from_two_is_not_parsed(pieces: tuple[str, str]) -> None:
    assert control_texts(rendered((pieces[0], False), (pieces[1], False))) == []


@pytest.mark.parametrize("text", ["<|a", "x <|a", "</s>", "~"])
def test_segments_text_of_the_client_at_the_end_is_not_parsed(text: str) -> None:
    # A shorter control text, where a longer one with the same head does not fit.
    assert control_texts(rendered(("<|a|>", True), (text, False))) == ["<|a|>"]


def test_segments_text_left_over_by_a_removal_is_not_parsed() -> None:
    marked = str(TEXTS.mark("<|/no|a|>", MARK)).replace("/no|", "|")
    assert control_texts(TEXTS.segments(marked, MARK)) == []


def test_segments_text_begun_by_the_template_is_not_parsed() -> None:
    texts = ControlTexts(["<|a|>"], literals=["</b>\n<", ">"])
    for name in ("|a|", "|a|>x", "|"):
        assert texts.may_be_in(name)
        assert texts.mark(name, MARK) == MARK + name
    assert texts.segments(f"<{MARK}|a|>", MARK) == [("<|a|>", False)]


@given(st.lists(st.one_of(ALPHABET.map(lambda text: (text, False)), st.just(("[X]", True))), max_size=6))
def test_segments_own_texts_and_only_those_are_parsed(pieces: list[tuple[str, bool]]) -> None:
    segments = rendered(*pieces)
    assert "".join(text for text, _ in segments) == "".join(text for text, _ in pieces)
    assert control_texts(segments) == ["[X]"] * sum(is_own for _, is_own in pieces)


@given(ALPHABET)
def test_may_be_in_agrees_with_mark(text: str) -> None:
    assert TEXTS.may_be_in({"a": [text]}) == (TEXTS.mark(text, MARK) != text)


def test_mark_reaches_names_and_values_at_every_depth() -> None:
    value = {"<|a|>": [{"b": ("~", 1, None, True)}]}
    assert TEXTS.may_be_in(value)
    assert TEXTS.mark(value, MARK) == {"<\0|a|>": [{"b": ["~\0", 1, None, True]}]}


def test_mark_of_an_answer_leaves_reasoning_tags_and_what_is_harmless() -> None:
    assert TEXTS.mark("<think>a<|b</s>c<|", MARK, is_answer=True) == "<think>a<|b<\0/s>c<\0|"


def test_control_texts_none_marks_nothing() -> None:
    nothing = ControlTexts([])
    assert not nothing.may_be_in("<|a|>")
    assert nothing.mark("<|a|>", MARK) == "<|a|>"


def test_new_mark_is_digits_of_one_length() -> None:
    marks = {new_mark() for _ in range(100)}
    assert len(marks) == 100
    assert all(mark.isdigit() and len(mark) == 25 for mark in marks)


def test_own_texts_are_not_marked() -> None:
    texts = ControlTexts(["<|user|>"], literals=["<|", "|>"])
    assert texts.may_be_in("user")
    assert not texts.may_be_in(TrustedText("user"), {TrustedText("user"): 1})
    marked = texts.mark({TrustedText("user"): [TrustedText("user"), "user"]}, MARK)
    assert marked == {"user": ["user", MARK + "user"]}


@pytest.mark.parametrize("piece", range(1, 9))
def test_mark_in_pieces_finds_what_it_finds_at_once(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    texts = ControlTexts(["<|end|>", "<e>", "</think>", "<"])
    values = ["a<|end|>b<e", "<", "a<", "<<e><|end|", "", "ab", "</think></think>"]
    whole = [(texts.mark(value, "#"), texts.mark(value, "#", is_answer=True)) for value in values]
    monkeypatch.setattr(module, "_PIECE_CHARS", piece)
    assert [(texts.mark(value, "#"), texts.mark(value, "#", is_answer=True)) for value in values] == whole


def test_mark_of_an_answer_full_of_openings_copies_no_rest_of_it() -> None:
    text = "<|" * 100_000
    rests = 0

    class Prefixes(frozenset):
        def __contains__(self, rest: object) -> bool:
            nonlocal rests
            rests += len(str(rest))
            return super().__contains__(rest)

    texts = ControlTexts(["<|end|>"])
    texts._prefixes = Prefixes(texts._prefixes)
    texts.mark(text, "#", is_answer=True)
    assert rests < 100
