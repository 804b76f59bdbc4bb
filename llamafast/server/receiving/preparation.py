"""Work on request bodies that would hold the event loop too long: threads of its own, which end with the process."""

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

# Beyond this cost a body waits for the one thread of such bodies, so that ordinary ones never wait behind them.
_LARGE_COST = 1_000_000
_NUM_SMALL = 2
_MAX_SMALL_JOBS = 2048
_MAX_LARGE_JOBS = 32

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BLOCK = 2**20


class Abandoned(BaseException):
    """Nobody waits for this work any more. No error: `except Exception` must not stop it."""


class _Job:
    """is_wanted may be cleared by any thread. The work is dropped as soon as it has been done."""

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
        with suppress(BaseException):  # Rust's panics are no Exception, and the thread has to go on; nor is Abandoned
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
    """Threads that start when they are first needed. All methods but has_ended() belong to the event loop.

    The threads are daemons: what still runs in them when the process ends is lost, and nobody waits for it.
    """

    def __init__(self) -> None:
        self._small: SimpleQueue[_Job | None] = SimpleQueue()
        self._large: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs: set[_Job] = set()
        self._is_stopped = False
        self._threads: list[threading.Thread] = []

    @property
    def num_jobs(self) -> int:
        """Jobs that run or wait."""
        return len(self._jobs)

    async def run(self, receive: Receive, cost: int, work: Callable[[], T]) -> T:
        """The result of work() in a thread. cost: about as many characters to tokenize.

        Raises what the work does, ClientDisconnect if the client leaves meanwhile, ShuttingDownError, QueueFullError.
        """
        if self._is_stopped:
            raise ShuttingDownError("the server is shutting down and takes no new requests")
        job = _Job(work, asyncio.get_running_loop(), cost > _LARGE_COST)
        num_alike = sum(other.is_large == job.is_large for other in self._jobs)
        if num_alike >= (_MAX_LARGE_JOBS if job.is_large else _MAX_SMALL_JOBS):
            raise QueueFullError(f"{num_alike} requests are being read already; try again later")
        self._start()
        self._jobs.add(job)
        (self._large if job.is_large else self._small).put(job)
        try:
            result: T = await while_connected(receive, job.future, job.abandon)
            return result
        finally:
            job.abandon()
            self._jobs.discard(job)
            del job  # as in while_connected

    def stop(self) -> None:
        """Take nothing new; whoever waits gets ShuttingDownError, and the threads end at their next checkpoint."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for job in list(self._jobs):
            job.abandon()
            job.settle(None, ShuttingDownError("the server is shutting down"))
        for jobs in [self._small] * _NUM_SMALL + [self._large]:
            jobs.put(None)

    def has_ended(self, timeout_s: float) -> bool:
        """Whether no thread is at work any more, waiting for that. Behind stop(), from any thread."""
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
    """Raises Abandoned in a thread whose client has left. Called between pieces of long work; elsewhere no effect."""
    job: _Job | None = getattr(_current, "job", None)
    if job is not None and not job.is_wanted:
        raise Abandoned


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as exc:  # it is raised where the result is awaited
        return None, exc


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        is_large = job.is_large
        del job  # while the thread waits, nothing keeps the result
        if is_large and gc.get_freeze_count():
            # Templates leave cycles that hold the conversation. Cheap only where the objects of the start are frozen.
            gc.collect()


def _return_large_blocks() -> None:
    """Free memory of large blocks goes back at once, whatever was allocated behind them. Only glibc has to be told."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


_current = threading.local()
