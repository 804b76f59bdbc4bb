"""Sends an answer, streamed or whole, and ends its work when the client disconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from llamafast.request import RequestOutput
from llamafast.server.answers.formatter import Formatter
from llamafast.server.answers.framing import EVENT_STREAM, Framing
from llamafast.server.answers.progress import AnswerProgress
from llamafast.server.connection import mark_event_stream
from llamafast.server.receiving.leaving import disconnected, while_connected

logger = logging.getLogger("llamafast.server")


class Outputs(Protocol):
    """The outputs of one HTTP request: an engine's OutputStream, or several merged."""

    def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        """All outputs since the last await, in one list."""

    def finish(self, index: int) -> None:
        """End one choice. Outputs of the other choices and the usage still come."""

    async def aclose(self) -> None:
        """Abort the choices that still run."""


class Pieces(Protocol):
    """The pieces of a stream, each with some frames. The answer is being generated, or it was stored.

    framing: how the frames are written.
    is_over: the last piece has been yielded.
    """

    @property
    def framing(self) -> Framing: ...

    @property
    def is_over(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def keepalive(self) -> bytes:
        """The bytes to send in a long pause; b"" for none."""

    async def aclose(self) -> None:
        """End the work for the stream."""


# Called once an answer has ended, before the client reads its end.
Commit: TypeAlias = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """The Commit of an answer that is not kept."""


class AnswerStream:
    """The pieces of an answer: one for each delivery of the engine with visible output.

    An error becomes the last piece; the iteration does not raise it. All code that sends a streamed answer uses this
    class.
    """

    def __init__(self, outputs: Outputs, formatter: Formatter, commit: Commit = _nothing) -> None:
        """commit: awaited after the last output, before the end of the answer is rendered."""
        self._outputs = outputs
        self._formatter = formatter
        self._commit = commit
        self.framing = formatter.framing
        self.keepalive = formatter.keepalive
        self.is_over = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        formatter, progress = self._formatter, self._formatter.progress
        try:
            if data := formatter.start():
                yield data
            async for outputs in self._outputs:
                if any(output.prompt_logprobs for output in outputs):
                    data = await asyncio.to_thread(formatter.frames, outputs)
                else:
                    data = formatter.frames(outputs)
                if progress.to_finish:
                    _finish_choices(self._outputs, progress)
                if progress.error is not None:
                    last = data + formatter.failure(progress.error)
                    break
                if data:
                    yield data
            else:
                await self._commit()
                last = formatter.end()
        except Exception as exc:  # the status line is sent: only a frame can still report an error
            logger.exception("a stream failed")
            last = formatter.failure(exc)
        self.is_over = True
        yield last

    async def aclose(self) -> None:
        """Abort the choices that still run."""
        await self._outputs.aclose()


class EventStream(Response):
    """A raw ASGI response that sends each piece of a stream as one body message, even if it has many frames."""

    def __init__(self, pieces: Pieces, keepalive_s: float, headers: Mapping[str, str] | None = None) -> None:
        """keepalive_s: the length of a pause, in seconds, after which keepalives are sent."""
        self.status_code = 200
        self.background = None
        self.media_type = pieces.framing.media_type
        # A proxy that buffers would hold the tokens back.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._pieces = pieces
        self._keepalive_s = keepalive_s
        self._is_sending = False
        self._is_quiet = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers at once, then the pieces. If the client disconnects, stop and end the work."""
        if self.media_type == EVENT_STREAM:
            mark_event_stream(scope)
        tasks: tuple[asyncio.Task[None], ...] = ()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pump = asyncio.ensure_future(self._pump(send))
            watch = asyncio.ensure_future(self._watch(receive, send))
            tasks = (pump, watch)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pieces.aclose()

    async def _pump(self, send: Send) -> None:
        try:
            async for data in self._pieces:
                self._is_sending = True
                await send({"type": "http.response.body", "body": data, "more_body": not self._pieces.is_over})
                self._is_sending = self._is_quiet = False
        except Exception:
            logger.exception("a stream could not be sent")

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client has disconnected. Send a keepalive after each pause, so that proxies keep waiting."""
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            while not gone.done():
                self._is_quiet = True
                await asyncio.wait((gone,), timeout=self._keepalive_s)
                is_pause = self._is_quiet and not self._is_sending and not gone.done()
                if is_pause and (keepalive := self._pieces.keepalive()):
                    await send({"type": "http.response.body", "body": keepalive, "more_body": True})
        finally:
            gone.cancel()


def streamed_answer(
    outputs: Outputs,
    formatter: Formatter,
    keepalive_s: float,
    headers: Mapping[str, str] | None = None,
    commit: Commit = _nothing,
) -> Response:
    """A response that streams the outputs as frames. An error after the headers becomes a frame.

    commit: as AnswerStream takes it.
    """
    return EventStream(AnswerStream(outputs, formatter, commit), keepalive_s, headers)


async def whole_answer(
    request: Request,
    outputs: Outputs,
    formatter: Formatter,
    headers: Mapping[str, str] | None = None,
    commit: Commit = _nothing,
) -> Response:
    """Collect the outputs into one JSON response.

    commit: awaited after the last output, before the answer is rendered.
    Raises the engine's error, and ClientDisconnect when the client disconnects. In both cases the choices that still
    run are aborted.
    """
    collected = await while_connected(request.receive, collect(outputs, formatter, commit))
    return Response(collected, headers=headers, media_type="application/json")


async def collect(outputs: Outputs, formatter: Formatter, commit: Commit = _nothing) -> bytes:
    """The whole answer as one JSON document. Raises the engine's error, after aborting the choices that still run."""
    progress = formatter.progress
    try:
        async for delivered in outputs:
            formatter.add(delivered)
            if progress.to_finish:
                _finish_choices(outputs, progress)
            if progress.error is not None:
                raise progress.error
        await commit()
        return await asyncio.to_thread(formatter.body) if formatter.is_large else formatter.body()
    finally:
        await outputs.aclose()


def _finish_choices(outputs: Outputs, progress: AnswerProgress) -> None:
    while progress.to_finish:
        outputs.finish(progress.to_finish.pop())


class MergedOutputs:
    """Several output streams as one. Choice c of stream s becomes choice s * num_choices + c.

    Without an iterator, deleting this object drops the streams. Deleting the iterator aborts them.
    """

    def __init__(self, streams: Sequence[Outputs], num_choices: int) -> None:
        self._arrived: list[RequestOutput] = []
        self._wake = asyncio.Event()
        self._streams = streams
        self._num_choices = num_choices
        self._num_open = len(streams)
        self._tasks: list[asyncio.Task[None]] = []

    async def _forward(self, stream: Outputs, base: int) -> None:
        try:
            async for outputs in stream:
                for output in outputs:
                    output.index += base
                self._arrived += outputs
                self._wake.set()
        finally:
            self._num_open -= 1
            self._wake.set()

    async def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        # The tasks start here and not earlier: they keep the streams alive, and only an iterator is sure to end them.
        self._tasks = [
            asyncio.ensure_future(self._forward(stream, i * self._num_choices))
            for i, stream in enumerate(self._streams)
        ]
        try:
            while self._num_open or self._arrived:
                await self._wake.wait()
                self._wake.clear()
                arrived, self._arrived = self._arrived, []
                if arrived:
                    yield arrived
            # Raises the error that ended a stream early.
            await asyncio.gather(*self._tasks)
        finally:
            await self.aclose()

    def finish(self, index: int) -> None:
        """End one choice of one stream."""
        self._streams[index // self._num_choices].finish(index % self._num_choices)

    async def aclose(self) -> None:
        """Abort all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()
