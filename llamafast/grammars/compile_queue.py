"""CompileQueue: compiles the cheapest grammar first, several at once, but large ones never in all threads."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from llamafast.errors import CompilerBusyError, ShuttingDownError
from llamafast.grammars.guidance import STACK_BYTES

T = TypeVar("T")

LARGE_COST = 8 * 1024
_NUM_THREADS = 3  # one of them never takes large work
_MAX_QUEUED = 64
_JOB_S = 0.2  # the expected time of a waiting job, for Retry-After


class CompileQueue(Generic[T]):
    """Runs work in its own threads. Cancelling a future removes its work from the queue, if it has not begun."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[int, int, Future[T], Callable[[], T]]] = []  # by cost, then by arrival
        self._num_submitted = 0
        self._num_large = 0  # running
        self._num_free = 0  # threads
        self._num_threads = 0
        self.is_closed = False

    def submit(self, cost: int, work: Callable[[], T]) -> Future[T]:
        """Queue work and return its result as a future. Raises CompilerBusyError if too much is waiting, and
        ShuttingDownError.
        """
        with self._condition:
            if self.is_closed:
                raise ShuttingDownError("the server is shutting down and compiles no more grammars")
            self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(self._heap)
            if len(self._heap) >= _MAX_QUEUED:
                raise CompilerBusyError(
                    f"{len(self._heap)} grammars are waiting to be compiled; try again later",
                    retry_after=_JOB_S * len(self._heap) / _NUM_THREADS,
                )
            future: Future[T] = Future()
            self._num_submitted += 1
            heapq.heappush(self._heap, (cost, self._num_submitted, future, work))
            if len(self._heap) > self._num_free and self._num_threads < _NUM_THREADS:
                self._start_thread()
            self._condition.notify()
        return future

    def close(self) -> None:
        """Start no more work, and cancel what is waiting."""
        with self._condition:
            self.is_closed = True
            for _, _, future, _ in self._heap:
                future.cancel()
            self._heap.clear()
            self._condition.notify_all()

    def _start_thread(self) -> None:
        self._num_threads += 1
        previous = threading.stack_size(STACK_BYTES)
        try:
            threading.Thread(target=self._run, name="llamafast-grammar", daemon=True).start()
        finally:
            threading.stack_size(previous)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            cost, future, work = taken
            try:
                future.set_result(work())
            except BaseException as error:  # the waiting callers get it, whatever it is
                future.set_exception(error)
            if cost > LARGE_COST:
                with self._condition:
                    self._num_large -= 1
                    self._condition.notify()
            del taken, future, work

    def _take(self) -> tuple[int, Future[T], Callable[[], T]] | None:
        """Wait for the next work. None: there will be no more."""
        with self._condition:
            while not self.is_closed:
                while self._heap and (self._heap[0][0] <= LARGE_COST or self._num_large < _NUM_THREADS - 1):
                    cost, _, future, work = heapq.heappop(self._heap)
                    if future.set_running_or_notify_cancel():
                        self._num_large += cost > LARGE_COST
                        return cost, future, work
                self._num_free += 1
                self._condition.wait()
                self._num_free -= 1
            return None
