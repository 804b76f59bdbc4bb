"""Threads for work on request bodies that takes too long for the event loop. They end with the process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from starlette.types import Receive

from llamafast.errors import QueueFullError, ShuttingDownError
from llamafast.server.receiving.leaving import while_connected

T = TypeVar("T")

# A body with a higher cost goes to the one thread for large bodies, so that ordinary bodies never wait for it.
_LARGE_COST = 1_000_000
_NUM_SMALL = 2
_MAX_SMALL_JOBS = 2048
_MAX_LARGE_JOBS = 32

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 2**20


class Abandoned(BaseException):
    """The work is cancelled: its client has left. Not an Exception, so that `except Exception` does not catch it."""


class _Job:
    """One piece of work.

    is_large: it runs in the thread for large bodies.
    work: a function. None after its call, so that its data are freed.
    future: gets the result on the event loop.
    is_wanted: the client still waits for the result. Any thread may clear it.
    """

    __slots__ = ("future", "is_large", "is_wanted", "loop", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop, is_large: bool) -> None:
        self.is_large = is_large
        self.work: Callable[[], Any] | None = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.is_wanted = True

    def abandon(self) -> None:
        self.is_wanted = False

    def run(self) -> None:
        work, self.work = self.work, None
        if work is None or not self.is_wanted:
            return
        _current.job = self
        result: object = None
        error: Exception | None = RuntimeError("the work on a request ended in a panic")
        with suppress(BaseException):  # a Rust library's panic and Abandoned must not end the thread
            result, error = _outcome(work)
        _current.job = None
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.settle, result, error)

    def settle(self, result: object, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Preparation:
    """The threads. They start with the first job. All methods except has_ended() are called on the event loop.

    The threads are daemons: the end of the process does not wait for their work.
    """

    def __init__(self) -> None:
        self._small: SimpleQueue[_Job | None] = SimpleQueue()
        self._large: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs: set[_Job] = set()
        self._is_stopped = False
        self._threads: list[threading.Thread] = []

    @property
    def num_jobs(self) -> int:
        """The number of jobs that run or wait."""
        return len(self._jobs)

    async def run(self, receive: Receive, cost: int, work: Callable[[], T]) -> T:
        """Run work() in a thread and return its result.

        receive: ASGI's receive of the request, which reports that the client disconnects.
        cost: the estimated duration, in the time to tokenize one character.
        Raises the errors of work(), ClientDisconnect if the client disconnects before the end, ShuttingDownError,
        QueueFullError.
        """
        if self._is_stopped:
            raise ShuttingDownError("the server is shutting down and takes no new requests")
        job = _Job(work, asyncio.get_running_loop(), cost > _LARGE_COST)
        num_alike = sum(other.is_large == job.is_large for other in self._jobs)
        if num_alike >= (_MAX_LARGE_JOBS if job.is_large else _MAX_SMALL_JOBS):
            raise QueueFullError(f"{num_alike} requests are already being prepared; try again later")
        self._start()
        self._jobs.add(job)
        (self._large if job.is_large else self._small).put(job)
        try:
            result: T = await while_connected(receive, job.future, job.abandon)
            return result
        finally:
            job.abandon()
            self._jobs.discard(job)
            del job  # the traceback of an error contains this frame, which would keep the job

    def stop(self) -> None:
        """Refuse new work and fail all jobs with ShuttingDownError. Each thread ends at its next checkpoint."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for job in list(self._jobs):
            job.abandon()
            job.settle(None, ShuttingDownError("the server is shutting down"))
        for jobs in [self._small] * _NUM_SMALL + [self._large]:
            jobs.put(None)

    def has_ended(self, timeout_s: float) -> bool:
        """Wait at most timeout_s seconds until all threads have ended. Returns whether they have ended.

        Call it after stop(), from any thread.
        """
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self) -> None:
        if self._threads:
            return
        _return_large_blocks()
        for i, jobs in enumerate([self._small] * _NUM_SMALL + [self._large]):
            self._threads.append(
                threading.Thread(target=_serve, args=(jobs,), name=f"llamafast-prepare-{i}", daemon=True)
            )
            self._threads[-1].start()


def checkpoint() -> None:
    """Raise Abandoned if the client of this thread's job has disconnected. No effect in other threads.

    Long work calls it between its parts.
    """
    job: _Job | None = getattr(_current, "job", None)
    if job is not None and not job.is_wanted:
        raise Abandoned


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as exc:  # run() raises it to the code that awaits the result
        return None, exc


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        is_large = job.is_large
        del job  # without this line the variable would keep the result until the next job
        if is_large and gc.get_freeze_count():
            # Templates leave reference cycles that hold the conversation. A collection is cheap only because the
            # objects of the start are frozen.
            gc.collect()


def _return_large_blocks() -> None:
    """Have malloc return large blocks to the system as soon as they are freed. Only glibc needs this setting."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


_current = threading.local()
