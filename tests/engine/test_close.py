"""Engine.close: the freed objects, and the effect of each method afterwards."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from llamafast.engine.engine import Engine
from llamafast.errors import ContextLengthError, EngineDeadError, ShuttingDownError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason
from tests.engine.fakes import Collector, make_engine, make_request, scripted

INTEGER = StructuredOutput(StructuredKind.JSON_SCHEMA, '{"type": "integer"}')

# The effect of each public name of a closed Engine: it raises EngineDeadError, returns this value, or works as before.
REFUSED = {
    "add": lambda engine: engine.add(make_request("1")),
    "add_adapter": lambda engine: engine.add_adapter("a.gguf"),
    "add_projector": lambda engine: engine.add_projector("p.gguf"),
    "check_free": lambda engine: engine.check_free(),
    "check_integrity": lambda engine: engine.check_integrity(),
    "compile_grammar": lambda engine: engine.compile_grammar(INTEGER),
    "compile_grammar_async": lambda engine: asyncio.run(engine.compile_grammar_async(INTEGER)),
    "generate": lambda engine: engine.generate("text"),
    "open_disk_cache": lambda engine: engine.open_disk_cache("folder", max_bytes=1),
    "prepare": lambda engine: engine.prepare(make_request("1")),
    "step": lambda engine: engine.step(),
}
SILENT = {
    "abort": (lambda engine: engine.abort("0"), None),
    "abort_all": (lambda engine: engine.abort_all(), []),
    "close": (lambda engine: engine.close(), None),
    "drop": (lambda engine: engine.drop({"0"}), None),
    "finish": (lambda engine: engine.finish("0", 0), None),
    "has_work": (lambda engine: engine.has_work, False),
    "num_waiting": (lambda engine: engine.num_waiting, 0),
    "on_wake": (lambda engine: engine.on_wake(lambda: None), None),
}
WORKING = {"failure", "prepare_cost", "snapshot", "validate"}


def closed_engine() -> Engine:
    """An engine that is closed while one request runs and one waits."""
    engine = make_engine(scripted("a long text"), n_ctx=400, n_seq_max=1)
    for i in range(2):
        engine.add(make_request(str(i)))
    engine.step()
    engine.close()
    return engine


def test_each_public_name_of_the_engine_is_tested_here():
    names = {name for name in vars(Engine) if not name.startswith("_")}
    assert names == REFUSED.keys() | SILENT.keys() | WORKING


@pytest.mark.parametrize("name", REFUSED)
def test_closed_engine_refuses(name):
    engine = closed_engine()
    with pytest.raises(EngineDeadError, match="closed"):
        REFUSED[name](engine)


@pytest.mark.parametrize("name", SILENT)
def test_closed_engine_has_nothing_left(name):
    call, result = SILENT[name]
    assert call(closed_engine()) == result


def test_closed_engine_still_validates():
    engine = closed_engine()
    engine.validate(make_request("1"))
    with pytest.raises(ContextLengthError):
        engine.validate(make_request("1", "x" * 999))
    assert engine.prepare_cost(make_request("1")) > 0


def test_closed_engine_still_makes_failures():
    error = EngineDeadError("gone")
    output = closed_engine().failure("7", error)
    assert (output.request_id, output.error, output.is_last) == ("7", error, True)
    assert output.finish_reason is FinishReason.ERROR


def test_closed_engine_keeps_facts_and_counts():
    engine = closed_engine()
    assert engine.stats.steps == 1
    assert (engine.model_info.path, engine.context_info.n_ctx, engine.limits.max_seq_len) == ("fake.gguf", 400, 400)


def test_close_frees_the_context_and_can_be_repeated():
    with make_engine(n_ctx=400) as engine:
        Collector().run(engine, make_request("0"))
        context = weakref.ref(engine.context)
    engine.close()
    gc.collect()
    assert context() is None


def test_close_frees_the_model_although_the_tokenizer_is_referenced():
    engine = make_engine(n_ctx=400)
    Collector().run(engine, make_request("0"))
    model, tokenizer = weakref.ref(engine.model), engine.tokenizer
    engine.close()
    assert model() is None
    with pytest.raises(ShuttingDownError):
        tokenizer.encode("text", add_special=False, parse_special=False)


def test_close_frees_the_grammar_compiler():
    engine = make_engine(n_ctx=400)
    engine.compile_grammar(StructuredOutput(StructuredKind.JSON_SCHEMA, '{"type": "integer"}'))
    compiler, tokenizer = weakref.ref(engine.grammars), weakref.ref(engine.tokenizer)
    engine.close()
    del engine
    gc.collect()
    assert (compiler(), tokenizer()) == (None, None)


def test_close_frees_compiled_grammars_while_the_engine_stays():
    engine = make_engine(n_ctx=400)
    engine.compile_grammar(INTEGER)
    compiler = weakref.ref(engine.grammars)
    engine.close()
    gc.collect()
    assert compiler() is None
