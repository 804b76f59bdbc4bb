"""EngineThread with an engine that generates no text."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from llamafast.engine.engine_thread import EngineThread
from llamafast.engine.protocol import StepEngine
from llamafast.errors import EngineDeadError, InvalidRequestError, QueueFullError, ShuttingDownError
from tests.engine import serving
from tests.engine.fake_encoder import Encoded, EncodeRequest, FakeEncoder
from tests.engine.fakes import make_engine


class Gate:
    """Blocks each step of an encoder until it is opened."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(10)


def serve(encoder, work, max_queued_requests=10):
    return serving.serve(EngineThread(encoder, max_queued_requests=max_queued_requests), work)


async def submit(thread, number):
    return thread.submit(await thread.prepare(EncodeRequest(str(number), (number, 10))))


async def read(stream) -> Encoded:
    outputs = [output for item in [item async for item in stream] for output in item]
    (output,) = outputs
    return output


@pytest.mark.parametrize("engine", [FakeEncoder(), make_engine()], ids=["encoder", "text"])
def test_engine_has_every_member_of_the_protocol(engine):
    assert [name for name in vars(StepEngine) if not name.startswith("_") and not hasattr(engine, name)] == []


def test_encoder_each_request_gets_its_own_vector():
    async def work(thread):
        return await asyncio.gather(*[read(await submit(thread, i)) for i in range(5)])

    assert [output.vector for output in serve(FakeEncoder(), work)] == [(2, 10 + i) for i in range(5)]


def test_encoder_bad_request_is_refused_before_it_is_queued():
    async def work(thread):
        with pytest.raises(InvalidRequestError):
            await thread.prepare(EncodeRequest("0", ()))
        return thread.num_waiting

    assert serve(FakeEncoder(), work) == 0


def test_encoder_queue_is_bounded():
    gate = Gate()
    encoder = FakeEncoder(gate)

    async def work(thread):
        streams = [await submit(thread, i) for i in range(encoder.n_seq_max + 1)]
        with pytest.raises(QueueFullError):
            await submit(thread, 9)
        gate.opened.set()
        return await asyncio.gather(*map(read, streams))

    assert len(serve(encoder, work, max_queued_requests=1)) == 3
    assert encoder.stats.rejections == 1


def test_encoder_dropped_stream_is_never_computed():
    gate = Gate()
    encoder = FakeEncoder(gate)

    async def work(thread):
        first = await submit(thread, 0)
        await asyncio.to_thread(gate.entered.wait, 10)
        second = await submit(thread, 1)
        del second
        gc.collect()
        gate.opened.set()
        await read(first)
        await thread._is_idle.wait()

    serve(encoder, work)
    assert [request_id for ids in encoder.steps for request_id in ids] == ["0"]


def test_encoder_stop_lets_running_requests_finish():
    gate = Gate()

    async def main():
        thread = EngineThread(FakeEncoder(gate), max_queued_requests=10)
        await thread.start()
        reader = asyncio.ensure_future(read(await submit(thread, 0)))
        stopping = asyncio.ensure_future(thread.stop(10.0))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError):
            await submit(thread, 1)
        gate.opened.set()
        await stopping
        return await reader

    assert asyncio.run(main()).vector == (2, 10)


def test_encoder_stop_at_the_deadline_ends_the_rest():
    gate = Gate()

    async def main():
        thread = EngineThread(FakeEncoder(gate), max_queued_requests=10)
        await thread.start()
        streams = [await submit(thread, 0)]
        await asyncio.to_thread(gate.entered.wait, 10)
        streams += [await submit(thread, i) for i in range(1, 4)]
        stopping = asyncio.ensure_future(thread.stop(0.0))
        while thread._inbox.qsize() <= 3:
            await asyncio.sleep(0)
        gate.opened.set()
        await stopping
        return [bool((await read(stream)).vector) for stream in streams]

    assert asyncio.run(main()) == [True, False, False, False]


@pytest.mark.parametrize("fault", ["out of order", ValueError("odd")])
def test_encoder_death_ends_all_streams(fault):
    gate = Gate()
    encoder = FakeEncoder(gate)
    deaths = []

    async def work(thread):
        thread.on_death = deaths.append
        readers = [asyncio.ensure_future(read(await submit(thread, i))) for i in range(3)]
        await asyncio.to_thread(gate.entered.wait, 10)
        encoder.fault = fault
        gate.opened.set()
        outputs = await asyncio.gather(*readers)
        while not deaths:
            await asyncio.sleep(0)
        with pytest.raises(EngineDeadError):
            await submit(thread, 9)
        return outputs

    assert [type(output.error) for output in serve(encoder, work)] == [EngineDeadError] * 3
    assert len(deaths) == 1
    assert str(fault) in deaths[0]


def test_encoder_snapshot_lists_waiting_inputs():
    gate = Gate()

    async def work(thread):
        streams = [await submit(thread, 0)]
        await asyncio.to_thread(gate.entered.wait, 10)
        streams += [await submit(thread, i) for i in range(1, 3)]
        asking = asyncio.ensure_future(thread.snapshot())
        await asyncio.sleep(0)
        gate.opened.set()
        snapshot = await asking
        await asyncio.gather(*map(read, streams))
        return [sequence.request_id for sequence in snapshot.sequences]

    assert serve(FakeEncoder(gate), work) == ["1", "2"]
