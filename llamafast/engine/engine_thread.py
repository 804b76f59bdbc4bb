"""EngineThread: runs any engine on its own thread and delivers the outputs to an event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Generic

from llamafast.engine.metrics import EngineStats
from llamafast.engine.output_stream import OutputStream
from llamafast.engine.protocol import OutputT, PreparedT, RequestT, StepEngine
from llamafast.engine.snapshot import EngineSnapshot, EngineState
from llamafast.errors import EngineDeadError, InvalidRequestError, QueueFullError, ShuttingDownError

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 60.0

# Microseconds of prepare_cost that the event loop can spare.
_INLINE_COST = 2_000


class EngineThread(Generic[RequestT, PreparedT, OutputT]):
    """Runs an engine on its own thread, delivers its outputs to one event loop, and closes it when the thread stops.

    engine: only this object calls it after start().
    max_queued_requests: number of requests that may wait, in addition to the running ones.
    on_death: called once on the event loop, with the reason, after the engine has died and all streams have ended.

    Only abort() and finish() may be called from other threads than the event loop's.
    """

    def __init__(self, engine: StepEngine[RequestT, PreparedT, OutputT], *, max_queued_requests: int) -> None:
        self.max_queued_requests = max_queued_requests
        self.death: str | None = None
        self.on_death: Callable[[str], None] | None = None
        self._engine = engine
        self._num_submitted = 0  # requests put into the inbox, by the event loop
        self._num_taken = 0  # requests taken out of it, by the engine's thread
        self._check_idle = os.environ.get("LLAMAFAST_DEBUG", "0") not in ("", "0")
        self._streams: dict[str, weakref.ref[OutputStream[OutputT]]] = {}
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # calls for the engine's thread; None: stop
        self._posted: deque[list[OutputT]] = deque()  # outputs from the engine's thread for the event loop
        self._is_posted = False
        self._is_stopping = False
        self._has_ended = False  # the engine's thread has closed the engine
        self._snapshot: asyncio.Future[EngineSnapshot] | None = None  # requested, not taken yet
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_idle = asyncio.Event()

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges of the engine."""
        return self._engine.stats

    @property
    def ready(self) -> bool:
        """Whether submit() takes requests."""
        return self._is_alive and not self._is_stopping and self.death is None

    @property
    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Number of running sequences."""
        return self.stats.num_running

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests, those in the inbox included."""
        return self._engine.num_waiting + self._num_submitted - self._num_taken

    async def start(self) -> None:
        """Start the engine's thread; outputs go to the running event loop. Raises RuntimeError the second time."""
        if self._thread is not None:
            raise RuntimeError("an engine's thread starts only once; the engine is closed when the thread stops")
        self._loop = asyncio.get_running_loop()
        self._is_idle.set()
        self._thread = Thread(target=self._main, name="llamafast-engine", daemon=True)
        self._thread.start()

    async def stop(self, deadline_s: float) -> None:
        """Refuse new requests, let the others finish for deadline_s seconds, abort the rest, close the engine."""
        self._is_stopping = True
        thread = self._thread
        if thread is None:
            return
        try:
            if self._streams:
                await asyncio.wait_for(self._is_idle.wait(), deadline_s)
        except asyncio.TimeoutError:
            logger.warning("aborting %d requests: they did not finish in %g s", len(self._streams), deadline_s)
        self._inbox.put(None)
        await asyncio.to_thread(thread.join)

    async def prepare(self, request: RequestT) -> PreparedT:
        """Check a request and build the object that submit() takes, in a thread if that takes long.

        Raises InvalidRequestError or ContextLengthError with the field, EngineDeadError, ShuttingDownError.
        """
        self.check_ready()
        if self._engine.prepare_cost(request) <= _INLINE_COST:
            return self._prepare(request)
        return await asyncio.to_thread(self._prepare, request)

    def submit(self, prepared: PreparedT) -> OutputStream[OutputT]:
        """Queue a request. Raises EngineDeadError, ShuttingDownError, QueueFullError, InvalidRequestError."""
        self.check_ready()
        request_id = prepared.request_id
        if request_id in self._streams:
            raise InvalidRequestError(f"request id {request_id!r} is in use", param="request_id")
        num_waiting = self.num_waiting
        if num_waiting >= self.max_queued_requests + max(0, self._engine.n_seq_max - self.stats.num_running):
            self.stats.add_rejection()
            raise QueueFullError(
                f"{num_waiting} requests are waiting already; try again later", retry_after=self._retry_after()
            )
        stream: OutputStream[OutputT] = OutputStream(self, request_id)
        self._streams[request_id] = weakref.ref(stream)
        self._is_idle.clear()
        self._num_submitted += 1
        self._inbox.put(partial(self._take, prepared))
        return stream

    def abort(self, request_id: str) -> None:
        """End a request before the next step. An unknown or finished one is ignored. Thread-safe."""
        self._inbox.put(partial(self._engine.abort, request_id))

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request before the next step. An unknown or finished one is ignored. Thread-safe."""
        self._inbox.put(partial(self._engine.finish, request_id, index))

    async def snapshot(self) -> EngineSnapshot:
        """A record of the current work of the engine, taken between two steps. It waits for the running step.

        An idle engine answers at once. A dead or closed engine also answers at once, with the reason. Calls that wait
        at the same time get the same snapshot.
        """
        if self._thread is None or self._has_ended:
            return self._snapshot_now()
        if self._snapshot is None:
            self._snapshot = asyncio.get_running_loop().create_future()
            self._inbox.put(partial(self._take_snapshot, self._snapshot))
        return await asyncio.shield(self._snapshot)

    def check_ready(self) -> None:
        """Raises EngineDeadError or ShuttingDownError if submit() would raise them."""
        if self.death is not None:
            raise EngineDeadError(f"the engine is dead: {self.death}")
        if not self._is_stopping and self._thread is not None and not self._is_alive:
            raise EngineDeadError("the engine is dead: its thread has ended")
        if not self.ready:
            raise ShuttingDownError("the server is shutting down and takes no new requests")

    def _prepare(self, request: RequestT) -> PreparedT:
        try:
            return self._engine.prepare(request)
        except EngineDeadError:
            self.check_ready()  # if the server is shutting down, it raises ShuttingDownError instead
            raise

    def _retry_after(self) -> float:
        """Estimate of the seconds until the running requests have ended."""
        latency = self.stats.e2e_latency
        mean_s = latency.sum / max(1, latency.count)
        return min(max(1.0, mean_s), _MAX_RETRY_AFTER_S)

    def _deliver_posted(self) -> None:
        self._is_posted = False  # before reading: a later post must wake the loop again
        while self._posted:
            self._deliver(self._posted.popleft())

    def _deliver(self, outputs: list[OutputT]) -> None:
        streams = self._streams
        for output in outputs:
            request_id = output.request_id
            reference = streams.get(request_id)
            if reference is None:
                continue
            is_last = output.is_last
            if is_last:
                del streams[request_id]
            stream = reference()
            if stream is not None:
                stream.push(output, is_last)
        if not streams:
            self._is_idle.set()

    def _fail(self, message: str) -> None:
        """Note that the engine has died, and end all streams with an error."""
        self.death = message
        self._deliver_posted()
        error = EngineDeadError(f"the engine died: {message}")
        self._deliver([self._engine.failure(request_id, error) for request_id in list(self._streams)])
        if self.on_death is not None:
            self.on_death(message)

    def _end(self) -> None:
        """Note that the engine's thread has closed the engine, and answer a waiting snapshot."""
        self._has_ended = True
        if self._snapshot is not None:
            _answer(self._snapshot, self._snapshot_now())

    def _snapshot_now(self) -> EngineSnapshot:
        snapshot = self._engine.snapshot()
        return snapshot if self.death is None else replace(snapshot, state=EngineState.DEAD, death=self.death)

    # The following methods run on the engine's thread.

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:  # a panic of a Rust library, too: otherwise the streams would wait forever
            logger.exception("the engine's thread failed")
            self._call_soon(partial(self._fail, f"{type(error).__name__}: {error}"))
        finally:
            try:
                self._engine.close()
            finally:
                self._call_soon(self._end)

    def _run(self) -> None:
        engine = self._engine
        engine.on_wake(lambda: self._inbox.put(_do_nothing))
        while self._drain():
            outputs = engine.step()
            if outputs:
                self._post(outputs)
            if engine.death is not None:
                logger.error("the engine is dead: %s", engine.death)
                self._call_soon(partial(self._fail, engine.death))
                return
            if self._check_idle and not engine.has_work:
                engine.check_integrity()
        self._post(engine.abort_all())

    def _drain(self) -> bool:
        """Make the calls in the inbox; wait for one if the engine has no work. Returns False to stop."""
        inbox, engine = self._inbox, self._engine
        must_wait = engine.is_stalled
        while must_wait or not (inbox.empty() and engine.has_work):
            call = inbox.get()
            if call is None:
                return False
            call()
            must_wait = False
        return True

    def _take(self, prepared: PreparedT) -> None:
        self._num_taken += 1
        self._engine.add(prepared)

    def _take_snapshot(self, future: asyncio.Future[EngineSnapshot]) -> None:
        self._snapshot = None  # first: a later call must not get a snapshot that is older than the call
        answer: EngineSnapshot | Exception
        try:
            answer = self._engine.snapshot()
        except Exception as error:  # a failed snapshot must not end the engine
            answer = error
        self._call_soon(partial(_answer, future, answer))

    def _post(self, outputs: list[OutputT]) -> None:
        assert self._loop is not None
        self._posted.append(outputs)
        # At most one wake-up is pending. Otherwise the event loop would spend its time on wake-ups instead of delivery.
        if not self._is_posted:
            self._is_posted = True
            self._loop.call_soon_threadsafe(self._deliver_posted)

    def _call_soon(self, call: Callable[[], None]) -> None:
        """Schedule a call on the event loop if it still runs."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)


def _do_nothing() -> None:
    """A call that only wakes the engine's thread."""


def _answer(future: asyncio.Future[EngineSnapshot], answer: EngineSnapshot | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
