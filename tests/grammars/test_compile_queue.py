"""CompileQueue: the order of work, the threads of large work, and the errors when it is full or closed."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from llamafast.errors import CompilerBusyError, ShuttingDownError
from llamafast.grammars.compile_queue import LARGE_COST, CompileQueue

LARGE = LARGE_COST + 1
TIMEOUT_S = 60


@pytest.fixture
def gate():
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def queue(gate):
    queue = CompileQueue[object]()
    yield queue
    gate.set()
    queue.close()


def block(queue: CompileQueue[object], gate: threading.Event, cost: int, count: int) -> None:
    """Give the queue work that waits for the gate, and wait until it runs."""
    running = threading.Barrier(count + 1)

    def work() -> None:
        running.wait(TIMEOUT_S)
        gate.wait(TIMEOUT_S)

    for _ in range(count):
        queue.submit(cost, work)
    running.wait(TIMEOUT_S)


def test_queue_runs_the_cheapest_first(queue, gate) -> None:
    block(queue, gate, 1, 2)
    last = threading.Event()  # occupies the one thread that is left
    block(queue, last, 1, 1)
    order: list[int] = []
    futures = [queue.submit(cost, lambda cost=cost: order.append(cost)) for cost in (30, 10, 20)]
    last.set()
    wait(futures, TIMEOUT_S)
    assert order == [10, 20, 30]


def test_queue_runs_several_at_once_also_after_an_idle_thread(queue) -> None:
    queue.submit(1, lambda: None).result(TIMEOUT_S)
    meeting = threading.Barrier(3)
    futures = [queue.submit(1, lambda: meeting.wait(TIMEOUT_S)) for _ in range(3)]
    assert sorted(future.result(TIMEOUT_S) for future in futures) == [0, 1, 2]


def test_queue_keeps_a_thread_for_what_is_not_large(queue, gate) -> None:
    block(queue, gate, LARGE, 2)
    large = queue.submit(LARGE, lambda: "large")
    assert queue.submit(1, lambda: "small").result(TIMEOUT_S) == "small"
    assert not large.done()


def test_queue_that_is_full_says_when_to_come_again(queue, gate) -> None:
    block(queue, gate, 1, 3)
    with pytest.raises(CompilerBusyError) as caught:
        for _ in range(100):
            queue.submit(1, lambda: None)
    assert caught.value.status == 503 and caught.value.retry_after > 0


def test_work_that_is_cancelled_leaves_the_queue(queue, gate) -> None:
    block(queue, gate, 1, 3)
    done: list[int] = []
    for _ in range(200):
        assert queue.submit(1, lambda: done.append(1)).cancel()
    gate.set()
    queue.submit(2, lambda: None).result(TIMEOUT_S)
    assert done == []


def test_queue_that_is_closed_cancels_what_waits(queue, gate) -> None:
    block(queue, gate, 1, 3)
    future = queue.submit(1, lambda: None)
    queue.close()
    assert future.cancelled()
    with pytest.raises(ShuttingDownError):
        queue.submit(1, lambda: None)


def test_work_that_fails_tells_who_waits(queue) -> None:
    class PanicError(BaseException):
        pass

    def fail() -> None:
        raise PanicError

    assert isinstance(queue.submit(1, fail).exception(TIMEOUT_S), PanicError)
    assert queue.submit(1, lambda: "next").result(TIMEOUT_S) == "next"
