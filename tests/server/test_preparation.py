"""Preparation: work in threads, clients that leave, the end of the process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from starlette.requests import ClientDisconnect

from llamafast.errors import QueueFullError, ShuttingDownError
from llamafast.server.receiving import preparation as module
from llamafast.server.receiving.preparation import Preparation, checkpoint

SMALL, LARGE = 30_000, 30_000_000


async def stays() -> dict[str, str]:
    await asyncio.Event().wait()
    return {}


class Work:
    """Runs until the test releases it. Calls checkpoint() now and then."""

    def __init__(self) -> None:
        self.has_begun, self.may_end, self.was_abandoned = (threading.Event() for _ in range(3))

    def __call__(self) -> str:
        self.has_begun.set()
        try:
            while not self.may_end.wait(0.001):
                checkpoint()
        except module.Abandoned:
            self.was_abandoned.set()
            raise
        return threading.current_thread().name

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, 5)


@pytest.fixture
def preparation():
    made = Preparation()
    yield made
    made.stop()
    assert made.has_ended(5)


def test_preparation_result_comes_from_a_thread_of_its_own(preparation):
    name = asyncio.run(preparation.run(stays, SMALL, lambda: threading.current_thread().name))
    assert name.startswith("llamafast-prepare")


def test_preparation_error_is_raised_where_the_result_is_awaited(preparation):
    with pytest.raises(ZeroDivisionError):
        asyncio.run(preparation.run(stays, SMALL, lambda: 1 / 0))


def test_preparation_panic_is_an_error_and_the_thread_continues(preparation):
    class Panic(BaseException):
        pass

    def panic() -> None:
        raise Panic

    async def go() -> list[object]:
        jobs = [preparation.run(stays, LARGE, work) for work in (panic, lambda: 1)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    error, result = asyncio.run(go())
    assert isinstance(error, RuntimeError)
    assert result == 1


def test_preparation_small_work_does_not_wait_for_large(preparation):
    async def go() -> str:
        large = [Work() for _ in range(4)]
        tasks = [asyncio.ensure_future(preparation.run(stays, LARGE, work)) for work in large]
        await large[0].begun()
        name = await asyncio.wait_for(preparation.run(stays, SMALL, lambda: "done"), 5)
        assert not large[1].has_begun.is_set()
        for work in large:
            work.may_end.set()
        await asyncio.gather(*tasks)
        return name

    assert asyncio.run(go()) == "done"


def test_preparation_client_gone_ends_the_work_at_its_checkpoint(preparation):
    async def go() -> tuple[Work, Work]:
        gone = asyncio.Event()

        async def leaves() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        running, waiting = Work(), Work()
        tasks = [asyncio.ensure_future(preparation.run(leaves, LARGE, work)) for work in (running, waiting)]
        await running.begun()
        gone.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [ClientDisconnect, ClientDisconnect]
        await preparation.run(stays, LARGE, lambda: None)  # the thread is free again
        return running, waiting

    running, waiting = asyncio.run(go())
    assert running.was_abandoned.is_set()
    assert not waiting.has_begun.is_set()


def test_preparation_stop_fails_waiting_jobs_and_ends_the_threads(preparation):
    async def go() -> list[object]:
        works = [Work(), Work()]
        tasks = [asyncio.ensure_future(preparation.run(stays, LARGE, work)) for work in works]
        await works[0].begun()
        preparation.stop()
        return await asyncio.gather(*tasks, preparation.run(stays, SMALL, lambda: 1), return_exceptions=True)

    assert [type(error) for error in asyncio.run(go())] == [ShuttingDownError] * 3
    assert preparation.has_ended(5)


def test_preparation_too_many_at_once_are_refused(preparation, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LARGE_JOBS", 2)

    async def go() -> int:
        works = [Work(), Work()]
        tasks = [asyncio.ensure_future(preparation.run(stays, LARGE, work)) for work in works]
        await works[0].begun()
        with pytest.raises(QueueFullError):
            await preparation.run(stays, LARGE, lambda: 1)
        result = await preparation.run(stays, SMALL, lambda: 1)
        for work in works:
            work.may_end.set()
        await asyncio.gather(*tasks)
        return result

    assert asyncio.run(go()) == 1


def test_preparation_idle_thread_keeps_no_result(preparation):
    class Result:
        ended = threading.Event()

        def __del__(self) -> None:
            self.ended.set()

    asyncio.run(preparation.run(stays, SMALL, Result))
    assert Result.ended.wait(5)


def test_checkpoint_outside_of_any_work_has_no_effect():
    assert checkpoint() is None
