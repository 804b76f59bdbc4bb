"""The engine behind an event loop: one thread owns the context; a step wakes the loop once at most."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sized
from enum import Enum
from queue import SimpleQueue
from threading import Thread

from llamafast.engine.engine import Engine
from llamafast.engine.metrics import EngineStats
from llamafast.engine.prepare import prepare_cost, prepare_request
from llamafast.engine.sequence import RequestState
from llamafast.errors import EngineDeadError, InvalidRequestError, QueueFullError, ShuttingDownError
from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredOutput
from llamafast.request import FinishReason, Request, RequestOutput, Usage

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 60.0

# Microseconds of prepare_cost that the event loop can spare.
_INLINE_COST = 2_000


class _Wake(Enum):
    """What else is put into the inbox beside requests and the ids of those that are to be aborted."""

    STOP = 0
    LOADED = 1  # something has come from the disk


class OutputStream(AsyncIterator[list[RequestOutput]]):
    """What one request brings: each item is all that came since the last one. Dropping the stream aborts the request.

    The last output carries the usage; then the iteration ends.
    """

    def __init__(self, engine: AsyncEngine, request_id: str) -> None:
        self.request_id = request_id
        self._engine = engine
        self._outputs: list[RequestOutput] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_done = False

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> list[RequestOutput]:
        while not self._outputs:
            if self._is_done:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        outputs, self._outputs = self._outputs, []
        return outputs

    def abort(self) -> None:
        """End the request before the next step, and this iteration. No effect once it has ended. From any thread."""
        if not self._is_done:
            self._is_done = True
            self._engine.abort(self.request_id)

    def finish(self, index: int) -> None:
        """End one choice before the next step, as a stop string would: its last output still comes."""
        if not self._is_done:
            self._engine.finish(self.request_id, index)

    async def aclose(self) -> None:
        """Abort, and let a pending wait end."""
        self.abort()
        self._wake()

    def __del__(self) -> None:
        self.abort()

    def push(self, output: RequestOutput) -> None:
        """Called by the engine, on the event loop."""
        if not self._is_done:
            self._outputs.append(output)
            self._is_done = output.usage is not None
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncEngine:
    """Runs an Engine on a thread of its own and delivers its outputs to one event loop. Closes the engine at its end.

    max_queued_requests None: the engine's. All methods but prepare(), abort() and finish() belong to the event loop.
    on_death: called there once, with the reason, when the engine has died and everyone who waited knows it.
    """

    def __init__(self, engine: Engine, *, max_queued_requests: int | None = None) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.max_seq_len = engine.max_seq_len
        limit = engine.config.max_queued_requests if max_queued_requests is None else max_queued_requests
        self.max_queued_requests = limit
        self.dead: str | None = None
        self.on_death: Callable[[str], None] | None = None
        self._waiting: Sized = engine.scheduler.waiting
        self._num_submitted = 0  # requests put into the inbox, by the event loop
        self._num_taken = 0  # and out of it, by the engine's thread
        self._check_idle = os.environ.get("LLAMAFAST_DEBUG", "0") not in ("", "0")
        self._streams: dict[str, weakref.ref[OutputStream]] = {}
        self._inbox: SimpleQueue[RequestState | tuple[str, int] | str | _Wake] = SimpleQueue()
        self._posted: deque[list[RequestOutput]] = deque()  # by the engine's thread, for the event loop
        self._is_posted = False
        self._is_stopping = False
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_idle = asyncio.Event()

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges of the engine."""
        return self.engine.stats

    @property
    def ready(self) -> bool:
        """Whether submit() takes requests."""
        return self._is_alive and not self._is_stopping and self.dead is None

    @property
    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Sequences that compute."""
        return self.stats.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that have no sequence yet."""
        return len(self._waiting) + self._num_submitted - self._num_taken

    async def start(self) -> None:
        """Start the engine's thread; outputs go to the running event loop. Raises RuntimeError the second time."""
        if self._thread is not None:
            raise RuntimeError("an AsyncEngine starts once; its engine is closed when it stops")
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
        self._inbox.put(_Wake.STOP)
        await asyncio.to_thread(thread.join)

    async def compile_grammar(self, structured: StructuredOutput) -> Grammar:
        """What Request.grammar takes, tried out in a process and compiled in a thread.

        Raises GrammarError, CompilerBusyError, EngineDeadError, ShuttingDownError.
        """
        self.check_ready()
        return await self.engine.grammars.compile_async(structured)

    async def prepare(self, request: Request) -> RequestState:
        """What submit() takes without a pause: checked and built, in a thread if that takes long.

        Raises InvalidRequestError or ContextLengthError, naming the field, EngineDeadError, ShuttingDownError.
        """
        self.check_ready()
        if prepare_cost(request, self.tokenizer) <= _INLINE_COST:
            return self._prepare(request)
        return await asyncio.to_thread(self._prepare, request)

    def submit(self, request: Request | RequestState) -> OutputStream:
        """Queue a request. Raises what Engine.prepare does, EngineDeadError, ShuttingDownError, QueueFullError."""
        self.check_ready()
        prepared = request if isinstance(request, RequestState) else self._prepare(request)
        request = prepared.request
        if request.request_id in self._streams:
            raise InvalidRequestError(f"request id {request.request_id!r} is in use", param="request_id")
        num_waiting = self.num_waiting
        if num_waiting >= self.max_queued_requests + max(0, self.engine.n_seq_max - self.stats.num_running):
            self.stats.rejections += 1
            raise QueueFullError(
                f"{num_waiting} requests are waiting already; try again later", retry_after=self._retry_after()
            )
        stream = OutputStream(self, request.request_id)
        self._streams[request.request_id] = weakref.ref(stream)
        self._is_idle.clear()
        self._num_submitted += 1
        self._inbox.put(prepared)
        return stream

    def abort(self, request_id: str) -> None:
        """End a request before the next step; an unknown or finished one is ignored. From any thread."""
        self._inbox.put(request_id)

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request before the next step; an unknown or finished one is ignored. From any thread."""
        self._inbox.put((request_id, index))

    def _prepare(self, request: Request) -> RequestState:
        # Not the engine's own method: it may be closed meanwhile.
        return prepare_request(request, self.tokenizer, self.engine.limits)

    def check_ready(self) -> None:
        """Raises EngineDeadError or ShuttingDownError where submit() would."""
        if self.dead is not None:
            raise EngineDeadError(f"the engine is dead: {self.dead}")
        if not self._is_stopping and self._thread is not None and not self._is_alive:
            raise EngineDeadError("the engine is dead: its thread has ended")
        if not self.ready:
            raise ShuttingDownError("the server is shutting down and takes no new requests")

    def _retry_after(self) -> float:
        """Seconds until the queue has probably moved by as many requests as run at once."""
        latency = self.stats.e2e_latency
        mean_s = latency.sum / max(1, latency.count)
        return min(max(1.0, mean_s), _MAX_RETRY_AFTER_S)

    def _deliver_posted(self) -> None:
        self._is_posted = False  # before looking: whoever posts from now on wakes the loop again
        while self._posted:
            self._deliver(self._posted.popleft())

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        streams = self._streams
        for output in outputs:
            reference = streams.get(output.request_id)
            if reference is None:
                continue
            if output.usage is not None:
                del streams[output.request_id]
            stream = reference()
            if stream is not None:
                stream.push(output)
        if not streams:
            self._is_idle.set()

    def _fail(self, message: str) -> None:
        """The engine's thread has ended for this reason: everyone still waiting learns it."""
        self.dead = message
        self._deliver_posted()
        error = EngineDeadError(f"the engine died: {message}")
        self._deliver(
            [
                RequestOutput(request_id, 0, "", [], finish_reason=FinishReason.ERROR, usage=Usage(0, 0), error=error)
                for request_id in list(self._streams)
            ]
        )
        if self.on_death is not None:
            self.on_death(message)

    # What follows runs on the engine's thread.

    def _main(self) -> None:
        try:
            self._run()
        except BaseException as error:  # the last guard: whatever it is, a Rust panic too, nobody may wait for ever
            logger.exception("the engine's thread failed")
            self._post_failure(f"{type(error).__name__}: {error}")
        finally:
            self._waiting = ()  # it knows the context
            self.engine.close()

    def _run(self) -> None:
        engine = self.engine
        if engine.disk is not None:
            engine.disk.on_load = lambda: self._inbox.put(_Wake.LOADED)
        while self._drain():
            outputs = engine.step()
            if outputs:
                self._post(outputs)
            if engine.dead is not None:
                logger.error("the engine is dead: %s", engine.dead)
                self._post_failure(engine.dead)
                return
            if self._check_idle and not engine.has_work:
                engine.check_integrity()
        self._post(engine.abort_all())

    def _drain(self) -> bool:
        """Take what is in the inbox, waiting for something if there is nothing else to do. False: stop."""
        inbox, engine = self._inbox, self.engine
        while engine.is_stalled or not (inbox.empty() and engine.has_work):
            item = inbox.get()
            engine.is_stalled = False
            if item is _Wake.STOP:
                return False
            if isinstance(item, RequestState):
                self._num_taken += 1
                engine.add(item)
            elif isinstance(item, tuple):
                engine.finish(*item)
            elif isinstance(item, str):
                engine.abort(item)
        return True

    def _post(self, outputs: list[RequestOutput]) -> None:
        assert self._loop is not None
        self._posted.append(outputs)
        # At most one wake-up is on its way: the loop would otherwise read them faster than it gets to deliver.
        if not self._is_posted:
            self._is_posted = True
            self._loop.call_soon_threadsafe(self._deliver_posted)

    def _post_failure(self, message: str) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail, message)
