"""GrammarCompiler over the fake vocabulary: what compiles, what is refused, what is cached."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from llamafast.engine import grammar
from llamafast.engine.grammar import GrammarCompiler
from llamafast.errors import GrammarError, ShuttingDownError
from llamafast.request import StructuredKind, StructuredOutput
from llamafast.tokenizer import Tokenizer
from tests.engine.fakes import FakeModel, encode


@pytest.fixture
def compiler():
    compiler = GrammarCompiler(Tokenizer(FakeModel()))
    yield compiler
    compiler.close()


def matches(compiler: GrammarCompiler, structured: StructuredOutput, text: str) -> bool:
    """Whether text is a complete output."""
    constraint = compiler.compile(structured).start()
    return all(constraint.accept(token_id) for token_id in encode(text)) and constraint.accept(FakeModel.eos_id)


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        (StructuredKind.JSON_OBJECT, "", '{"a": [1, null]}', "[1]"),
        (StructuredKind.JSON_SCHEMA, '{"type": "integer"}', "-12", "1.5"),
        (StructuredKind.REGEX, r"[a-c]+\d{2}", "abca42", "abca4"),
        (StructuredKind.CHOICE, '["yes", "no"]', "no", "nope"),
        (StructuredKind.GBNF, 'root ::= [0-9]+ ("." [0-9]+)?', "3.14", "3."),
        (StructuredKind.CHOICE, json.dumps(['"\\\n', "\u00e9\u65e5"]), "\u00e9\u65e5", '"\\'),
    ],
)
def test_grammar_of_each_kind_allows_its_outputs_only(compiler, kind, text, good, bad) -> None:
    structured = StructuredOutput(kind, text)
    assert (matches(compiler, structured, good), matches(compiler, structured, bad)) == (True, False)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (StructuredKind.JSON_SCHEMA, "{"),
        (StructuredKind.JSON_SCHEMA, '{"type": "text"}'),
        (StructuredKind.REGEX, "a(b"),
        (StructuredKind.CHOICE, "[]"),
        (StructuredKind.CHOICE, "[1]"),
        (StructuredKind.CHOICE, "yes"),
        (StructuredKind.CHOICE, '["\\ud800"]'),
        (StructuredKind.REGEX, "\ud800"),
        (StructuredKind.REGEX, "(a{1000}){1000}"),
        (StructuredKind.REGEX, r"a[^\s\S]"),
        (StructuredKind.GBNF, 'root ::= root "a"'),
        (StructuredKind.REGEX, "a" * 300_000),
    ],
)
def test_grammar_that_is_wrong_raises_grammar_error(compiler, kind, text) -> None:
    with pytest.raises(GrammarError):
        compiler.compile(StructuredOutput(kind, text))


def test_grammar_compiled_twice_is_one_program(compiler) -> None:
    structured = StructuredOutput(StructuredKind.REGEX, "a+")
    assert compiler.compile(structured).program is compiler.compile(structured).program


def test_grammar_is_forgotten_after_many_others(compiler) -> None:
    structured = StructuredOutput(StructuredKind.REGEX, "a+")
    first = compiler.compile(structured).program
    for i in range(100):
        compiler.compile(StructuredOutput(StructuredKind.REGEX, f"b{i}"))
    assert compiler.compile(structured).program is not first


def test_grammars_compiled_at_once_are_one_program(compiler) -> None:
    async def compile_both():
        structured = StructuredOutput(StructuredKind.JSON_SCHEMA, '{"type": "integer"}')
        return await asyncio.gather(compiler.compile_async(structured), compiler.compile_async(structured))

    first, second = asyncio.run(compile_both())
    assert first.program is second.program


def test_grammar_that_takes_too_long_is_refused_and_does_not_hold_the_loop(compiler, monkeypatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(grammar, "MAX_COMPILE_S", 0.05)
    monkeypatch.setattr(grammar, "compile_regex", lambda vocabulary, text: gate.wait())
    with pytest.raises(GrammarError, match="does not compile within"):
        asyncio.run(compiler.compile_async(StructuredOutput(StructuredKind.REGEX, "a")))
    gate.set()


def test_compiler_that_is_closed_says_that_the_server_is_shutting_down(compiler) -> None:
    compiler.close()
    with pytest.raises(ShuttingDownError):
        compiler.compile(StructuredOutput(StructuredKind.REGEX, "a"))


def test_constraint_delayed_allows_all_but_the_end_until_it_wakes(compiler) -> None:
    structured = StructuredOutput(StructuredKind.REGEX, "[0-9]", start_after=tuple(encode("ab")))
    constraint = compiler.compile(structured).start()
    asleep = [constraint.accept(token_id) for token_id in (*encode("xaa"), FakeModel.eos_id, *encode("b"))]
    awake = [constraint.accept(token_id) for token_id in encode("x7")]
    assert (asleep, awake, constraint.is_finished) == ([True, True, True, False, True], [False, True], True)
