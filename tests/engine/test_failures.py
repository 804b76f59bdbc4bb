"""A failure of one request ends only that request. A failure of the engine ends all requests."""

from __future__ import annotations

import asyncio
import math
from array import array
from dataclasses import fields
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.errors import EngineDeadError, InvalidRequestError, LlamaFastError
from llamafast.grammars.constraint import Constraint
from llamafast.request import FinishReason, PromptPlaces, Request, SamplingParams
from tests.engine.fakes import Collector, alone, make_engine, make_request

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
N_VOCAB = 8192


class Panic(BaseException):
    """Like a panic of a Rust library, which is not an Exception."""


class FailingConstraint(Constraint):
    """A constraint that allows everything until it raises."""

    def __init__(self, error: BaseException, method: str, after: int = 0) -> None:
        self._error, self._method, self._after = error, method, after
        self._is_masked = method != "mask"

    def _meet(self, method: str) -> None:
        self._after -= method == self._method
        if method == self._method and self._after < 0:
            raise self._error

    def accept(self, token_id: int) -> bool:
        self._meet("accept")
        is_masked, self._is_masked = self._is_masked, self._method != "mask"
        return is_masked

    def mask(self) -> bytes:
        self._meet("mask")
        self._is_masked = True
        return b"\xff" * (N_VOCAB // 8)

    def forced(self, min_tokens: int = 1) -> list[int]:
        self._meet("forced")
        return []

    @property
    def is_finished(self) -> bool:
        self._meet("is_finished")
        return False


class Failing:
    """A Grammar with a constraint that fails."""

    def __init__(self, *arguments) -> None:
        self._arguments = arguments

    def start(self, account: object = None) -> Constraint:
        return FailingConstraint(*self._arguments)


def run(engine: Engine, *requests: Request) -> Collector:
    collector = Collector()
    for request in requests:
        engine.add(request)
    while engine.has_work:
        collector.add(engine.step())
        engine.check_integrity()
    return collector


def broken(*arguments) -> None:
    raise RuntimeError("broken")


class Broken:
    """A detokenizer or stop matcher that fails at each call."""

    add = flush = broken


@pytest.mark.parametrize("error", [ValueError("odd"), Panic("thread panicked")])
@pytest.mark.parametrize("method", ["accept", "mask", "forced", "is_finished"])
@pytest.mark.parametrize("after", [0, 2])
def test_constraint_that_raises_ends_its_request_alone(error, method, after):
    engine = make_engine(n_ctx=400)
    bad = make_request("bad", max_tokens=30)
    object.__setattr__(bad, "grammar", Failing(error, method, after))
    collector = run(engine, make_request("good"), bad)
    assert collector.text["good", 0] == alone("hello")
    assert collector.finished["bad", 0].finish_reason is FinishReason.ERROR
    assert type(error).__name__ in collector.finished["bad", 0].error.message
    assert engine.death is None


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("method", ["accept", "mask", "forced"])
def test_constraint_that_panics_in_the_real_runner_ends_its_request_alone(built_in, method):
    token_ids = array("i", [5, 6, 7])
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    wanted = run(built_in, Request("0", token_ids, params)).token_ids["0", 0]
    bad = Request("bad", token_ids, params, grammar=Failing(Panic("thread panicked"), method, 1))
    collector = run(built_in, Request("good", token_ids, params), bad)
    assert collector.token_ids["good", 0] == wanted
    assert "Panic" in collector.finished["bad", 0].error.message


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("place", [0, 2])
def test_sequence_whose_text_fails_ends_its_request_alone(n, place):
    engine = make_engine(n_ctx=400, n_seq_max=6)
    engine.add(make_request("good"))
    state = engine.prepare(make_request("bad", n=n, max_tokens=50, stop=("never",)))
    state.sequences[min(place, n - 1)].stops = Broken()
    collector = run(engine, state)
    assert collector.text["good", 0] == alone("hello")
    assert {index for request_id, index in collector.finished if request_id == "bad"} == set(range(n))
    assert "broken" in collector.finished["bad", min(place, n - 1)].error.message
    assert collector.usage["bad"]


def test_ranked_request_that_fails_gives_its_usage_once():
    engine = make_engine(n_ctx=400)
    state = engine.prepare(make_request("bad", n=1, best_of=3, max_tokens=50))
    state.sequences[1].detokenizer = Broken()
    collector = run(engine, make_request("good"), state)
    assert collector.text["good", 0] == alone("hello")
    assert collector.usage["bad"]


def test_admission_that_fails_ends_its_request_alone():
    engine = make_engine(n_ctx=400)
    state = engine.prepare(make_request("bad", n=2))
    object.__setattr__(state.request, "places", PromptPlaces.of(("no number",)))
    engine.cache.reuse = True
    real = engine.cache.miss_reason
    engine.cache.miss_reason = lambda *a: real(*a) if a[0] is not state.sequences[0].token_ids else broken()
    collector = run(engine, make_request("good"), state, make_request("later", "abc"))
    assert collector.text["good", 0] == alone("hello")
    assert collector.text["later", 0] == alone("abc")
    assert collector.finished["bad", 0].finish_reason is FinishReason.ERROR


def test_queueing_that_fails_ends_its_request_alone():
    engine = make_engine(n_ctx=400)
    state = engine.prepare(make_request("bad"))
    real = engine.scheduler.waiting.put
    engine.scheduler.waiting.put = lambda sequence: broken() if sequence.request_id == "bad" else real(sequence)
    collector = run(engine, state, make_request("good"))
    assert collector.text["good", 0] == alone("hello")
    assert collector.finished["bad", 0].finish_reason is FinishReason.ERROR


@pytest.mark.parametrize("end", ["abort", "finish"])
def test_end_that_fails_ends_its_request_alone(end):
    engine = make_engine(n_ctx=400)
    state = engine.prepare(make_request("bad", max_tokens=50))
    engine.add(state)
    engine.add(make_request("good"))
    collector = Collector()
    collector.add(engine.step())
    state.sequences[0].detokenizer = Broken()
    getattr(engine, end)("bad", *([0] if end == "finish" else []))
    collector.run(engine)
    assert collector.text["good", 0] == alone("hello")
    assert collector.finished["bad", 0].finish_reason is FinishReason.ERROR


@pytest.mark.parametrize("error", [RuntimeError("broken"), Panic("thread panicked"), MemoryError()])
def test_step_that_fails_ends_all_streams_and_is_reported_once(error):
    deaths = []

    async def main():
        engine = make_engine(n_ctx=400)
        engine.runner.draw = lambda history, sampler: (_ for _ in ()).throw(error)
        async_engine = AsyncEngine(engine)
        async_engine.on_death = deaths.append
        await async_engine.start()
        stream = async_engine.submit(make_request("0"))
        last = [output async for outputs in stream for output in outputs][-1]
        assert isinstance(last.error, EngineDeadError)
        assert not async_engine.ready
        with pytest.raises(EngineDeadError):
            async_engine.submit(make_request("1"))
        await async_engine.stop(0.0)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert len(deaths) == 1
    assert type(error).__name__ in deaths[0]


def test_engine_whose_thread_has_gone_is_dead():
    async def main():
        async_engine = AsyncEngine(make_engine())
        async_engine._main = lambda: None
        await async_engine.start()
        await asyncio.to_thread(async_engine._thread.join)
        assert not async_engine.ready
        with pytest.raises(EngineDeadError):
            async_engine.submit(make_request("1"))

    asyncio.run(asyncio.wait_for(main(), 10))


# Values at and near each limit of a 32-bit float, a 32-bit and a 64-bit integer, and special values.
FLOATS = (
    0.0, -0.0, 5e-324, 1e-300, 1e-46, 1e-45, 1e-38, 1e-7, 0.5, 1 - 1e-17, 1.0, 1 + 1e-7, 2.0, 1e6, 3.4e38, 3.5e38,
    1e308, math.inf, -math.inf, math.nan, -1e-46, -1.0, -2.0, -1e308,
)  # fmt: skip
INTEGERS = (0, 1, -1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63))
IDS = ((), (0,), (N_VOCAB - 1,), (N_VOCAB,), (-1,), (2**31,), (0, 0), tuple(range(N_VOCAB)))
BORDERS = {
    "logit_bias": [((i, value),) for i in (0, -1, N_VOCAB, 2**31) for value in FLOATS]
    + [tuple((i, -math.inf) for i in range(N_VOCAB))],
    "stop": [("",), ("a",), ("\ud800",), ("\0",), ("x" * 4096,), ("é", "e"), ("",) * 3],
    "dry_sequence_breakers": [(), ("",), ("\ud800",), ("\0",), ("x" * 40,), ("é",)],
    "stop_token_ids": IDS,
    "allowed_token_ids": IDS,
    "bad_words": [(ids,) for ids in IDS] + [((0,), (1, 2)), tuple((i,) for i in range(N_VOCAB))],
    "structured": [],
    "reasoning_budget": [],
}  # fmt: skip
COMPANIONS = ({}, {"temperature": 0.0}, {"mirostat": 2, "dry_multiplier": 1.0, "xtc_probability": 1.0, "min_tokens": 1})


def border_cases():
    for field in fields(SamplingParams):
        default = field.default
        if field.name in BORDERS:
            values = BORDERS[field.name]
        elif isinstance(default, bool):
            values = (True, False)
        elif isinstance(default, float):
            values = FLOATS
        else:
            values = INTEGERS
        for value in values:
            yield field.name, value


@pytest.fixture(scope="module", params=[False, True], ids=["ends", "shifts"])
def any_engine(request, tmp_path_factory):
    """The built-in model, without and with context shift."""
    if not request.param:
        with Engine(str(BUILT_IN), EngineConfig(n_ctx=1024, n_seq_max=4, threads=1)) as engine:
            yield engine
        return
    from tests import tiny_models

    path = tmp_path_factory.mktemp("models") / "attention.gguf"
    tiny_models.write_attention_model(path)
    with Engine(str(path), EngineConfig(n_ctx=256, n_seq_max=4, threads=1, context_shift=True)) as engine:
        yield engine


@pytest.fixture(scope="module")
def built_in():
    with Engine(str(BUILT_IN), EngineConfig(n_ctx=1024, n_seq_max=4, threads=1)) as engine:
        yield engine


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("companions", COMPANIONS, ids=lambda companions: "-".join(companions) or "alone")
def test_border_value_is_refused_or_served(any_engine, companions):
    """For every field of SamplingParams, the engine survives, and accepted requests end without an error."""
    num_served = num_refused = 0
    for name, value in border_cases():
        params = {"max_tokens": 3, **companions, name: value}
        endless = params["max_tokens"] is None or not 0 <= params["max_tokens"] < 100
        try:
            request = Request("0", array("i", [5, 6, 7]), SamplingParams(**params))
            any_engine.add(request)
        except LlamaFastError as error:
            assert isinstance(error, InvalidRequestError), (name, value)
            num_refused += 1
            continue
        collector = Collector()
        for _ in range(6):
            collector.add(any_engine.step())
        if endless or any_engine.has_work:
            any_engine.abort("0")
            collector.add(any_engine.step())
        num_served += 1
        assert not any_engine.has_work, (name, value)
        assert any_engine.death is None, (name, value)
        errors = [output.error for output in collector.finished.values() if output.error is not None]
        assert not errors or all(isinstance(error, InvalidRequestError) for error in errors), (name, value, errors)
    assert num_served > 100
    assert num_refused > 100
