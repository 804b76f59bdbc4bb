"""AsyncEngine: delivery, queue limits, closed streams, shutdown, death of the thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from llamafast.engine.async_engine import AsyncEngine
from llamafast.errors import ContextLengthError, EngineDeadError, InvalidRequestError, QueueFullError, ShuttingDownError
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.request import FinishReason
from tests.engine import serving
from tests.engine.fakes import alone, make_engine, make_request, scripted

ENDLESS = "all work and no play makes this a dull text, " * 40


class Gate:
    """Blocks the runner inside its decode until it is opened. The first num_free decodes are not blocked."""

    def __init__(self, engine, num_free=0) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.threads: set[int] = set()
        step = engine.runner.step

        def gated(plan):
            self.threads.add(threading.get_ident())
            self.entered.set()
            assert len(engine.runner.steps) < num_free or self.opened.wait(10)
            return step(plan)

        engine.runner.step = gated


def serve(engine, work, **settings):
    """Run `await work(async_engine)` with a started engine, and stop it."""
    return serving.serve(AsyncEngine(engine, **settings), work)


async def read(stream) -> tuple[str, object]:
    text, last = "", None
    async for outputs in stream:
        text += "".join(output.text for output in outputs)
        last = outputs[-1]
    return text, last


def test_submit_many_requests_each_gets_its_own_text():
    prompts = [f"prompt {i}" for i in range(20)]

    async def work(engine):
        return await asyncio.gather(*(read(engine.submit(make_request(p, p))) for p in prompts))

    results = serve(make_engine(n_ctx=400), work)
    assert [text for text, _ in results] == [alone(p) for p in prompts]
    assert all(last.usage is not None for _, last in results)


def test_submit_after_idling_wakes_the_thread():
    async def work(engine):
        first = await read(engine.submit(make_request("0", "abc")))
        await asyncio.sleep(0)
        return first[0], (await read(engine.submit(make_request("0", "abd"))))[0]

    assert serve(make_engine(n_ctx=400), work) == (alone("abc"), alone("abd"))


def test_stream_finish_ends_one_choice_and_the_other_continues():
    made = make_engine(scripted(ENDLESS, ENDLESS), n_ctx=500)
    gate = Gate(made, num_free=3)

    async def work(engine):
        stream = engine.submit(make_request("0", "abc", n=2, max_tokens=200))
        texts = ["", ""]
        async for outputs in stream:
            stream.finish(0)
            gate.opened.set()
            for output in outputs:
                texts[output.index] += output.text
        return texts, output

    texts, last = serve(made, work)
    assert len(texts[0]) < len(texts[1]) == 200
    assert last.usage.completion_tokens == sum(map(len, texts))


def test_deliver_slow_reader_gets_all_in_one_item():
    async def work(engine):
        stream = engine.submit(make_request("0", "abc"))
        other = engine.submit(make_request("1", "abd"))
        await read(other)
        await engine._is_idle.wait()
        return [len(outputs) async for outputs in stream]

    items = serve(make_engine(scripted("hello"), n_ctx=400), work)
    assert items == [6]


def test_deliver_wakes_the_loop_once_per_step_at_most():
    engine = make_engine(scripted("hello"), n_ctx=400)

    async def work(async_engine):
        loop = asyncio.get_running_loop()
        calls = []
        call_soon_threadsafe = loop.call_soon_threadsafe

        def count(callback, *args):
            calls.append(callback)
            return call_soon_threadsafe(callback, *args)

        loop.call_soon_threadsafe = count
        await asyncio.gather(*(read(async_engine.submit(make_request(str(i), "abc"))) for i in range(4)))
        loop.call_soon_threadsafe = call_soon_threadsafe
        return len(calls)

    assert 0 < serve(engine, work) <= engine.stats.steps


def test_submit_bad_request_is_refused_before_it_is_queued():
    async def work(engine):
        with pytest.raises(ContextLengthError):
            engine.submit(make_request("0", "x" * 500))
        with pytest.raises(InvalidRequestError):
            engine.submit(make_request("0", temperature=-1.0))
        return engine.num_waiting

    assert serve(make_engine(n_ctx=400), work) == 0


def test_submit_id_in_use_is_refused():
    engine = make_engine(n_ctx=400)
    gate = Gate(engine)

    async def work(async_engine):
        stream = async_engine.submit(make_request("0"))
        with pytest.raises(InvalidRequestError):
            async_engine.submit(make_request("0"))
        gate.opened.set()
        return (await read(stream))[0]

    assert serve(engine, work) == alone("hello")


def test_submit_full_queue_is_refused_with_a_time():
    engine = make_engine(n_ctx=400, n_seq_max=2)
    gate = Gate(engine)

    async def work(async_engine):
        streams = [async_engine.submit(make_request(str(i))) for i in range(2)]
        await asyncio.to_thread(gate.entered.wait, 10)
        streams += [async_engine.submit(make_request(str(i))) for i in range(2, 5)]
        assert (async_engine.num_running, async_engine.num_waiting) == (2, 3)
        with pytest.raises(QueueFullError) as caught:
            async_engine.submit(make_request("5"))
        gate.opened.set()
        await asyncio.gather(*map(read, streams))
        await read(async_engine.submit(make_request("6")))
        return caught.value.retry_after

    assert serve(engine, work, max_queued_requests=3) >= 1.0
    assert engine.stats.rejections == 1


def test_submit_before_the_first_step_counts_free_ids():
    engine = make_engine(n_ctx=400, n_seq_max=2)
    gate = Gate(engine)

    async def work(async_engine):
        streams = [async_engine.submit(make_request(str(i))) for i in range(3)]
        gate.opened.set()
        return len(await asyncio.gather(*map(read, streams)))

    assert serve(engine, work, max_queued_requests=1) == 3


def test_submit_counts_requests_and_not_other_calls_in_the_inbox():
    engine = make_engine(scripted("hello", "hello"), n_ctx=400, n_seq_max=1)
    gate = Gate(engine)

    async def work(async_engine):
        running = async_engine.submit(make_request("0"))
        await asyncio.to_thread(gate.entered.wait, 10)
        for _ in range(9):
            running.finish(7)
            async_engine.abort("gone")
        assert async_engine.num_waiting == 0
        waiting = async_engine.submit(make_request("1"))
        assert async_engine.num_waiting == 1
        gate.opened.set()
        return [(await read(stream))[0] for stream in (running, waiting)]

    assert serve(engine, work, max_queued_requests=1) == ["hello", "hello"]


def test_stream_that_has_ended_finishes_no_later_request_of_its_id():
    engine = make_engine(scripted("hello"), n_ctx=400)
    gate = Gate(engine, num_free=8)

    async def work(async_engine):
        first = async_engine.submit(make_request("0"))
        await read(first)
        second = async_engine.submit(make_request("0"))
        text = "".join(output.text for output in await anext(second))
        first.finish(0)
        first.abort()
        gate.opened.set()
        return text + (await read(second))[0]

    assert serve(engine, work) == "hello"


@pytest.mark.parametrize("leave", ["aclose", "abort", "drop", "cancel"])
def test_stream_left_early_frees_its_sequence(leave):
    engine = make_engine(scripted(ENDLESS), n_ctx=4000)
    gate = Gate(engine, num_free=3)

    async def work(async_engine):
        stream = async_engine.submit(make_request("0"))
        await anext(stream)
        if leave == "drop":
            del stream
            gc.collect()
        elif leave == "cancel":
            task = asyncio.ensure_future(read(stream))
            del stream
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()
        elif leave == "abort":
            stream.abort()
        else:
            await stream.aclose()
        gate.opened.set()
        await async_engine._is_idle.wait()

    serve(engine, work)
    assert engine.stats.finished["abort"] == 1
    assert engine.stats.generation_tokens <= 4


def test_stream_closed_while_it_waits_ends():
    engine = make_engine(n_ctx=400)
    gate = Gate(engine)

    async def work(async_engine):
        stream = async_engine.submit(make_request("0"))
        task = asyncio.ensure_future(read(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        result = await task
        gate.opened.set()
        return result

    assert serve(engine, work) == ("", None)


def test_decode_always_runs_on_one_other_thread():
    engine = make_engine(n_ctx=400)
    gate = Gate(engine)
    gate.opened.set()

    async def work(async_engine):
        for i in range(3):
            await read(async_engine.submit(make_request(str(i))))

    serve(engine, work)
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads


def test_stop_lets_running_requests_finish_and_refuses_new_ones():
    engine = make_engine(n_ctx=400)
    gate = Gate(engine)

    async def main():
        async_engine = AsyncEngine(engine)
        assert not async_engine.ready
        await async_engine.start()
        assert async_engine.ready
        reader = asyncio.ensure_future(read(async_engine.submit(make_request("0"))))
        stopping = asyncio.ensure_future(async_engine.stop(10.0))
        await asyncio.sleep(0)
        assert not async_engine.ready
        with pytest.raises(ShuttingDownError):
            async_engine.submit(make_request("1"))
        gate.opened.set()
        await stopping
        await async_engine.stop(0.0)
        return await reader

    text, last = asyncio.run(main())
    assert (text, last.finish_reason) == (alone("hello"), FinishReason.STOP)


def test_compile_grammar_of_a_server_that_stops_is_refused():
    async def main():
        async_engine = AsyncEngine(make_engine())
        await async_engine.start()
        await async_engine.stop(0.0)
        await async_engine.compile_grammar(StructuredOutput(StructuredKind.JSON_OBJECT))

    with pytest.raises(ShuttingDownError):
        asyncio.run(main())


def test_stop_after_the_deadline_aborts_the_rest():
    async def main():
        async_engine = AsyncEngine(make_engine(scripted(ENDLESS * 10), n_ctx=20000, n_seq_max=1))
        await async_engine.start()
        readers = [asyncio.ensure_future(read(async_engine.submit(make_request(str(i))))) for i in range(2)]
        await asyncio.sleep(0)
        await async_engine.stop(0.01)
        return await asyncio.wait_for(asyncio.gather(*readers), 5)

    assert [last.finish_reason for _, last in asyncio.run(main())] == [FinishReason.ABORT] * 2


def test_start_twice_is_refused():
    async def work(async_engine):
        with pytest.raises(RuntimeError):
            await async_engine.start()

    serve(make_engine(), work)


def test_stop_engine_never_started_returns():
    async_engine = AsyncEngine(make_engine())
    asyncio.run(async_engine.stop(1.0))
    assert not async_engine.ready


@pytest.mark.parametrize("fault", ["fatal decode", "exception"])
def test_death_ends_all_streams_and_is_remembered(fault):
    engine = make_engine(n_ctx=400, n_seq_max=1)
    gate = Gate(engine)

    async def work(async_engine):
        readers = [asyncio.ensure_future(read(async_engine.submit(make_request(str(i))))) for i in range(3)]
        await asyncio.to_thread(gate.entered.wait, 10)
        if fault == "exception":
            engine.runner.draw = None
        else:
            engine.runner.failures = [-1]
        gate.opened.set()
        results = await asyncio.gather(*readers)
        await async_engine._is_idle.wait()
        while async_engine.death is None:
            await asyncio.sleep(0)
        assert not async_engine.ready
        with pytest.raises(EngineDeadError):
            async_engine.submit(make_request("9"))
        return results

    for _, last in serve(engine, work):
        assert last.finish_reason is FinishReason.ERROR
        assert last.error is not None


def test_debug_checks_integrity_when_idle(monkeypatch):
    monkeypatch.setenv("LLAMAFAST_DEBUG", "1")
    engine = make_engine(n_ctx=400)
    checked = []
    engine.check_integrity = lambda: checked.append(engine.has_work)

    async def work(async_engine):
        await read(async_engine.submit(make_request("0")))

    serve(engine, work)
    assert checked == [False]


def test_stop_frees_context_and_model_while_the_async_engine_stays():
    engine = make_engine(n_ctx=400)
    context, model = weakref.ref(engine.context), weakref.ref(engine.model)
    stopped = []

    async def work(async_engine):
        stopped.append(async_engine)
        await read(async_engine.submit(make_request("0")))

    serve(engine, work)
    gc.collect()
    assert (context(), model()) == (None, None)
    assert stopped[0].num_waiting == 0
