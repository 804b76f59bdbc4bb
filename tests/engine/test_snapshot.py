"""Engine.snapshot and AsyncEngine.snapshot: their content, and an answer in every state."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import FrozenInstanceError

import pytest

from llamafast.engine import snapshot as snapshot_module
from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.config import EngineConfig
from llamafast.engine.snapshot import EngineState
from llamafast.request import SequenceStatus
from tests.engine.fakes import Collector, make_engine, make_request, scripted
from tests.engine.serving import serve

LONG = "a long text that goes on for some time"
WAITING, PREFILLING, RUNNING = SequenceStatus.WAITING, SequenceStatus.PREFILLING, SequenceStatus.RUNNING


def stepped(num_steps, *requests, **settings):
    engine = make_engine(scripted(LONG, LONG, LONG), n_ctx=400, **settings)
    for request in requests:
        engine.add(request)
    for _ in range(num_steps):
        engine.step()
    return engine


def listed(engine):
    return [(s.request_id, s.index, s.status) for s in engine.snapshot().sequences]


def test_snapshot_of_an_engine_without_requests_is_idle():
    snapshot = make_engine(n_ctx=400).snapshot()
    assert (snapshot.state, snapshot.sequences, snapshot.death) == (EngineState.IDLE, (), None)
    assert (snapshot.num_steps, snapshot.last_step_s) == (0, None)


def test_snapshot_counts_the_tokens_of_a_running_sequence():
    engine = stepped(4, make_request("a", "12345", priority=3, max_tokens=20))
    (sequence,) = engine.snapshot().sequences
    assert (sequence.status, sequence.seq_id, sequence.priority) == (RUNNING, 0, 3)
    assert (sequence.num_prompt_tokens, sequence.num_computed_tokens) == (5, 8)
    assert (sequence.num_generated_tokens, sequence.num_remaining_tokens) == (4, 16)
    assert sequence.params.max_tokens == 20
    assert sequence.age_s >= 0


def test_snapshot_shows_the_tokens_from_the_cache():
    engine = make_engine(scripted(LONG), n_ctx=400)
    Collector().run(engine, make_request("a", "the same beginning", max_tokens=1))
    engine.add(make_request("b", "the same beginning!"))
    engine.step()
    assert engine.snapshot().sequences[0].num_cached_tokens == len("the same beginning")


def test_snapshot_lists_running_sequences_before_waiting_ones():
    requests = [make_request("a", priority=1), make_request("b", n=2), make_request("c")]
    engine = stepped(2, *requests, n_seq_max=3, n_batch=8)
    assert listed(engine) == [("b", 0, RUNNING), ("b", 1, RUNNING), ("c", 0, RUNNING), ("a", 0, WAITING)]
    assert engine.snapshot().num_waiting == 1


def test_snapshot_lists_forks_that_wait_for_their_prompt():
    engine = stepped(1, make_request("a", "x" * 20, n=2), n_batch=8)
    assert listed(engine) == [("a", 0, PREFILLING), ("a", 1, WAITING)]


def test_snapshot_leaves_out_choices_that_have_finished():
    engine = stepped(3, make_request("a", n=2))
    engine.finish("a", 0)
    assert listed(engine) == [("a", 1, RUNNING)]


def test_snapshot_lists_a_limited_number_of_sequences(monkeypatch):
    monkeypatch.setattr(snapshot_module, "MAX_SEQUENCES", 3)
    engine = stepped(2, *(make_request(str(i), n=2) for i in range(4)), n_seq_max=2)
    assert listed(engine) == [("0", 0, RUNNING), ("0", 1, RUNNING), ("1", 0, WAITING)]
    assert engine.snapshot().num_waiting == 3


def test_snapshot_counts_cells_of_the_cache():
    engine = make_engine(scripted(LONG), n_ctx=400)
    Collector().run(engine, make_request("a", "a prompt", max_tokens=2))
    engine.add(make_request("b", "12345"))
    engine.step()
    cache = engine.snapshot().cache
    assert (cache.n_cells, cache.num_cells, cache.num_parked_cells, cache.num_parked) == (400, 14, 9, 1)
    assert (cache.n_seq_ids, cache.num_free_ids) == (4, 2)


def test_snapshot_is_frozen():
    with pytest.raises(FrozenInstanceError):
        make_engine().snapshot().state = EngineState.DEAD


def test_snapshot_of_a_dead_engine_says_why():
    engine = make_engine(n_ctx=400)
    engine.add(make_request("a"))
    engine.runner.failures = [-3]
    engine.step()
    snapshot = engine.snapshot()
    assert (snapshot.state, snapshot.death, snapshot.sequences) == (EngineState.DEAD, "fake failure -3", ())


def test_snapshot_of_a_closed_engine_says_so():
    engine = stepped(2, make_request("a"))
    engine.close()
    snapshot = engine.snapshot()
    assert (snapshot.state, snapshot.death, snapshot.sequences) == (EngineState.CLOSED, "it is closed", ())
    assert snapshot.num_steps == 2


def run(engine, work):
    return serve(AsyncEngine(engine), work)


def test_async_snapshot_of_an_idle_engine_is_answered():
    async def work(async_engine):
        return (await async_engine.snapshot()).state

    assert run(make_engine(), work) is EngineState.IDLE


def test_async_snapshot_before_the_start_is_answered():
    assert asyncio.run(AsyncEngine(make_engine()).snapshot()).state is EngineState.IDLE


def test_async_snapshot_is_taken_between_steps_on_the_engines_thread():
    engine = make_engine(scripted(LONG), n_ctx=400, config=EngineConfig(n_seq_max=4))
    opened, entered = threading.Event(), threading.Event()
    step, threads = engine.runner.step, []

    def gated(*arguments):
        entered.set()
        assert opened.wait(10)
        return step(*arguments)

    def take():
        threads.append(threading.current_thread().name)
        return make_engine().snapshot()

    async def work(async_engine):
        stream = async_engine.submit(make_request("a"))
        await asyncio.to_thread(entered.wait, 10)
        asking = [asyncio.ensure_future(async_engine.snapshot()) for _ in range(3)]
        await asyncio.sleep(0)
        assert threads == []
        opened.set()
        await asyncio.gather(*asking)
        await stream.aclose()

    engine.runner.step, engine.snapshot = gated, take
    run(engine, work)
    assert threads == ["llamafast-engine"]


def test_async_snapshot_is_not_from_before_the_call():
    engine = make_engine()
    taken, num_taken = threading.Event(), 0

    def take():
        nonlocal num_taken
        num_taken += 1
        taken.set()
        return make_engine().snapshot()

    async def work(async_engine):
        first = asyncio.ensure_future(async_engine.snapshot())
        await asyncio.sleep(0)
        assert taken.wait(10)  # taken, but not delivered: the event loop is blocked here
        await asyncio.gather(first, async_engine.snapshot())
        return num_taken

    engine.snapshot = take
    assert run(engine, work) == 2


def test_async_snapshot_after_death_gives_the_reason():
    engine = make_engine(n_ctx=400)
    engine.runner.draw = None  # each draw raises

    async def work(async_engine):
        async for _ in async_engine.submit(make_request("a")):
            pass
        return await async_engine.snapshot()

    snapshot = run(engine, work)
    assert snapshot.state is EngineState.DEAD
    assert "TypeError" in snapshot.death


def test_async_snapshot_after_the_stop_is_answered():
    async def main():
        async_engine = AsyncEngine(make_engine())
        await async_engine.start()
        await async_engine.stop(0.0)
        return (await async_engine.snapshot()).state

    assert asyncio.run(main()) is EngineState.CLOSED


def test_async_snapshot_asked_for_while_the_engine_stops_is_answered():
    async def main():
        async_engine = AsyncEngine(make_engine())
        await async_engine.start()
        async_engine._inbox.put(None)
        return (await asyncio.wait_for(async_engine.snapshot(), 10)).state

    assert asyncio.run(main()) is EngineState.CLOSED


def test_async_snapshot_that_fails_leaves_the_engine_alive():
    engine = make_engine(scripted("text"), n_ctx=400)
    engine.snapshot = lambda: 1 / 0

    async def work(async_engine):
        with pytest.raises(ZeroDivisionError):
            await async_engine.snapshot()
        return [output.text async for outputs in async_engine.submit(make_request("a")) for output in outputs]

    assert "".join(run(engine, work)) == "text"
