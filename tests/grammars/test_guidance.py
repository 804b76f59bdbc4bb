"""Grammars run by llguidance: limits of one step, new fuel, choices, and the errors that it raises."""

from __future__ import annotations

import random

import pytest

from llamafast._core import Model
from llamafast.errors import GrammarError
from llamafast.grammars import guidance
from llamafast.grammars.guidance import compile_choice, compile_json_schema, compile_regex
from tests.grammars.vocabularies import BUILT_IN, END, bytes_vocabulary, model_vocabulary

VOCABULARY = bytes_vocabulary()


class PanicError(BaseException):
    """A Rust panic as pyo3 raises it. It is not an Exception."""


class Panicking:
    """A matcher that panics at every call."""

    def __getattr__(self, name: str) -> object:
        def panic(*args: object) -> None:
            raise PanicError(name)

        return panic


@pytest.mark.parametrize(
    "ask",
    [
        lambda constraint: constraint.mask(),
        lambda constraint: constraint.accept(97),
        lambda constraint: constraint.accept(END),
        lambda constraint: constraint.forced(),
    ],
)
def test_constraint_turns_a_panic_into_a_grammar_error(ask) -> None:
    constraint = compile_regex(VOCABULARY, "a+").start()
    constraint._matcher = Panicking()
    with pytest.raises(GrammarError):
        ask(constraint)


def test_constraint_that_panics_is_not_finished() -> None:
    constraint = compile_regex(VOCABULARY, "a+").start()
    constraint._matcher = Panicking()
    assert not constraint.is_finished


def test_program_turns_a_panic_into_a_grammar_error(monkeypatch) -> None:
    grammar = compile_regex(VOCABULARY, "a").grammar
    monkeypatch.setattr(guidance, "LLMatcher", Panicking().new)
    with pytest.raises(GrammarError):
        guidance.GuidanceProgram(VOCABULARY, grammar)


def test_constraint_that_needs_no_mask_goes_on_as_long_as_the_text() -> None:
    constraint = compile_json_schema(VOCABULARY, '{"type": "string", "maxLength": 100000}').start()
    text = b'"' + b"The quick brown fox jumps over the lazy dog. " * 600
    assert sum(constraint.accept(token_id) for token_id in text) == len(text)


def test_constraint_of_ever_more_states_ends_with_a_grammar_error() -> None:
    model = Model(BUILT_IN, vocab_only=True)
    vocabulary = model_vocabulary(model)
    constraint = compile_regex(vocabulary, "(.{0,30}[ab]){300}").start()
    rng = random.Random(1)
    letters = [vocabulary.tokenize(letter)[-1] for letter in "ab"]
    with pytest.raises(GrammarError, match="too complex"):
        for _ in range(100):
            constraint.mask()
            constraint.accept(rng.choice(letters))


def test_constraint_whose_masks_take_too_long_ends_with_a_grammar_error(monkeypatch) -> None:
    constraint = compile_regex(VOCABULARY, "[ab]*").start()
    monkeypatch.setattr("llamafast.grammars.constraint._SLOW_S", -1.0)
    with pytest.raises(GrammarError, match="too long"):
        for _ in range(10):
            constraint.mask()


@pytest.mark.parametrize("text", ["", "a", "ab", 'b"\\\n', "\u00e9"])
def test_choice_allows_each_of_its_texts(text) -> None:
    constraint = compile_choice(VOCABULARY, ["", "a", "ab", 'b"\\\n', "\u00e9"]).start()
    assert all(constraint.accept(token_id) for token_id in text.encode()) and constraint.accept(END)


def test_choice_among_ten_thousand_compiles() -> None:
    constraint = compile_choice(VOCABULARY, [f"choice {i}" for i in range(10_000)]).start()
    assert bytes(constraint.forced()) == b"choice "
