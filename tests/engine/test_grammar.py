"""GrammarCompiler over the fake vocabulary: what compiles, what is refused, what is cached."""

from __future__ import annotations

import json

import pytest

from llamafast.engine.grammar import GrammarCompiler
from llamafast.errors import GrammarError
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
    ],
)
def test_grammar_that_is_wrong_raises_grammar_error(compiler, kind, text) -> None:
    with pytest.raises(GrammarError):
        compiler.compile(StructuredOutput(kind, text))


def test_grammar_compiled_twice_is_one_program(compiler) -> None:
    structured = StructuredOutput(StructuredKind.REGEX, "a+")
    assert compiler.compile(structured).program is compiler.compile(structured).program
