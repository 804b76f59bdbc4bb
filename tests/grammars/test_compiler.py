"""GrammarCompiler with the fake vocabulary: what compiles, what is refused, what is cached."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial

import pytest

from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.errors import CompilerBusyError, GrammarError, ShuttingDownError
from llamafast.grammars import compiler as grammar
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.grammars.worker import Job, TrialResult
from llamafast.tokenizer import Tokenizer
from tests.engine.fakes import FakeModel, encode
from tests.grammars.schemas import SCHEMAS


@pytest.fixture
def compiler():
    compiler = GrammarCompiler(partial(grammar_vocabulary, Tokenizer(FakeModel())))
    yield compiler
    compiler.close()


def regex(text: str) -> StructuredOutput:
    return StructuredOutput(StructuredKind.REGEX, text)


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


def test_grammars_beyond_their_memory_are_forgotten(compiler, monkeypatch) -> None:
    monkeypatch.setattr(grammar, "_MAX_CACHED_BYTES", 1)
    structured = StructuredOutput(StructuredKind.REGEX, "a+")
    first = compiler.compile(structured).program
    compiler.compile(StructuredOutput(StructuredKind.REGEX, "b+"))
    assert compiler.compile(structured).program is not first


def test_grammars_that_grow_while_they_run_count_for_what_they_hold(compiler) -> None:
    structured = StructuredOutput(StructuredKind.GBNF, 'root ::= [ab]* "a" [ab]{30}')
    program = compiler.compile(structured).program
    constraint, num_bytes = program.start(), program.num_bytes
    for token_id in encode("abaababbaabbababbbaabababaab" * 4):
        constraint.accept(token_id)
    assert program.num_bytes > 2 * num_bytes


def test_grammars_compiled_at_once_are_one_program(compiler) -> None:
    async def compile_both():
        structured = StructuredOutput(StructuredKind.JSON_SCHEMA, '{"type": "integer"}')
        return await asyncio.gather(compiler.compile_async(structured), compiler.compile_async(structured))

    first, second = asyncio.run(compile_both())
    assert first.program is second.program


@pytest.fixture
def gate(monkeypatch):
    """No grammar is tried out before this is set. It counts those that were."""
    gate = Gate()
    run = grammar.WORKERS.run
    monkeypatch.setattr(grammar, "WORKERS", gate)
    gate.run_inner = run
    yield gate
    gate.set()


class Gate(threading.Event):
    num_jobs = 0

    def run(self, job: Job) -> TrialResult:
        self.num_jobs += 1
        self.wait(60)
        return self.run_inner(job)


def test_grammar_that_is_not_compiled_in_time_is_one_for_later(compiler, gate, monkeypatch) -> None:
    structured = StructuredOutput(StructuredKind.REGEX, "a")
    monkeypatch.setattr(grammar, "MAX_WAIT_S", 0.05)
    with pytest.raises(CompilerBusyError) as caught:
        asyncio.run(compiler.compile_async(structured))
    assert (caught.value.status, caught.value.retry_after > 0) == (503, True)
    monkeypatch.undo()
    gate.set()
    assert compiler.compile(structured)


def test_grammar_that_nobody_waits_for_is_not_compiled(compiler, gate, monkeypatch) -> None:
    async def come_and_go():
        waiting = [asyncio.create_task(compiler.compile_async(regex(f"a{i}"))) for i in range(20)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    asyncio.run(come_and_go())
    gate.set()
    compiler.compile(regex("b"))
    assert gate.num_jobs <= 4


def test_grammar_that_somebody_still_waits_for_is_compiled(compiler, gate) -> None:
    async def go_alone():
        leaving, staying = (asyncio.create_task(compiler.compile_async(regex("a"))) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.set()
        return await staying

    assert asyncio.run(go_alone()).program


def test_grammar_that_was_refused_is_refused_again_without_work(compiler, gate) -> None:
    gate.set()
    for _ in range(3):
        with pytest.raises(GrammarError, match="unclosed"):
            compiler.compile(regex("a(b"))
    assert gate.num_jobs == 1


def test_small_grammar_does_not_wait_for_large_ones(compiler, gate, monkeypatch) -> None:
    large = [StructuredOutput(StructuredKind.CHOICE, json.dumps(["x" * 10_000, str(i)])) for i in range(6)]
    tasks = [threading.Thread(target=compiler.compile, args=[structured]) for structured in large]
    for task in tasks:
        task.start()
    assert compiler.compile(StructuredOutput(StructuredKind.GBNF, 'root ::= "a"'))  # it needs no worker
    gate.set()
    for task in tasks:
        task.join()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 999_983},
        {"type": "string", "allOf": [{"pattern": f"^.*a.{{{i}}}$"} for i in range(30)]},
        {"type": "array", "items": {"anyOf": [{"type": "array", "items": {"enum": [f"{i}", i]}} for i in range(400)]}},
    ],
)
def test_schema_that_explodes_is_refused(compiler, schema) -> None:
    with pytest.raises(GrammarError):
        compiler.compile(StructuredOutput(StructuredKind.JSON_SCHEMA, json.dumps(schema)))


BIG = {
    "300 properties": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)}},
    "an enum of 1,000": {"type": "object", "properties": {"a": {"enum": [f"value number {i}" for i in range(1000)]}}},
    "100 kinds of objects": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": f"k{i}"}, "n": {"type": "integer"}},
             "required": ["kind"], "additionalProperties": False}
            for i in range(100)
        ]
    },
    "patterns of names": {
        "type": "object", "properties": {f"p{i}": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
                                         for i in range(50)},
    },
    "long lists": {"type": "array", "items": {"type": "number", "multipleOf": 0.01}, "maxItems": 10_000},
}  # fmt: skip


@pytest.mark.parametrize("name", BIG)
def test_schema_that_is_large_but_reasonable_compiles(compiler, name) -> None:
    assert compiler.compile(StructuredOutput(StructuredKind.JSON_SCHEMA, json.dumps(BIG[name]))).program


def test_schemas_of_applications_compile(compiler) -> None:
    for schema in SCHEMAS.values():
        assert compiler.compile(StructuredOutput(StructuredKind.JSON_SCHEMA, json.dumps(schema))).warnings == ()


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
