"""Sending an answer: as server-sent events or whole, and stopping the work when the client goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from llamafast.request import RequestOutput
from llamafast.server.answers.formatter import Formatter
from llamafast.server.connection import KEEPALIVE, mark_event_stream
from llamafast.server.errors import error_json
from llamafast.server.receiving.leaving import disconnected, while_connected

logger = logging.getLogger("llamafast.server")


class Outputs(Protocol):
    """The outputs of one HTTP request: an engine's OutputStream, or several merged."""

    def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        """Everything delivered since the last await."""

    def finish(self, index: int) -> None:
        """End one choice: nothing more of it is wanted, but the rest and the usage are."""

    async def aclose(self) -> None:
        """Abort what still runs."""


class EventStream(Response):
    """A raw ASGI response: one body message per delivery of the engine, however many events it holds."""

    media_type = "text/event-stream"

    def __init__(
        self, outputs: Outputs, formatter: Formatter, keepalive_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        # A proxy that buffers would hold the tokens back.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._outputs = outputs
        self._formatter = formatter
        self._keepalive_s = keepalive_s
        self._sending = False
        self._quiet = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers at once, then events; ends early, aborting the generation, when the client is gone."""
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
            await self._outputs.aclose()

    async def _pump(self, send: Send) -> None:
        formatter = self._formatter
        try:
            async for outputs in self._outputs:
                if any(output.prompt_logprobs for output in outputs):
                    data = await asyncio.to_thread(formatter.events, outputs)
                else:
                    data = formatter.events(outputs)
                _finish_choices(self._outputs, formatter)
                if formatter.error is not None:
                    await self._send(send, data + _error_event(formatter.error), more_body=False)
                    return
                if data:
                    await self._send(send, data, more_body=True)
            last = formatter.end()
        except Exception as exc:  # the status line is out: an error event is all that can still be said
            logger.exception("a stream failed")
            last = _error_event(exc)
        await self._send(send, last, more_body=False)

    async def _send(self, send: Send, data: bytes, *, more_body: bool) -> None:
        self._sending = True
        await send({"type": "http.response.body", "body": data, "more_body": more_body})
        self._sending = self._quiet = False

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Until the client is gone. A period without output ends in a comment line, so that proxies stay patient."""
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            while not gone.done():
                self._quiet = True
                await asyncio.wait((gone,), timeout=self._keepalive_s)
                if self._quiet and not self._sending and not gone.done():
                    await send({"type": "http.response.body", "body": KEEPALIVE, "more_body": True})
        finally:
            gone.cancel()


async def whole_answer(
    request: Request, outputs: Outputs, formatter: Formatter, headers: Mapping[str, str] | None = None
) -> Response:
    """Collect the outputs into one JSON response. Raises the engine's error, and ClientDisconnect when the client goes.

    Either way what still runs is aborted.
    """
    collected = await while_connected(request.receive, _collect(outputs, formatter))
    return Response(collected, headers=headers, media_type="application/json")


async def _collect(outputs: Outputs, formatter: Formatter) -> bytes:
    try:
        async for delivered in outputs:
            formatter.add(delivered)
            _finish_choices(outputs, formatter)
            if formatter.error is not None:
                raise formatter.error
        return await asyncio.to_thread(formatter.body) if formatter.has_logprobs else formatter.body()
    finally:
        await outputs.aclose()


def _finish_choices(outputs: Outputs, formatter: Formatter) -> None:
    while formatter.to_finish:
        outputs.finish(formatter.to_finish.pop())


def _error_event(exc: Exception) -> bytes:
    return b"data: " + error_json(exc) + b"\n\n"


class MergedOutputs:
    """Several output streams as one. Choice c of stream s becomes choice s * num_choices + c.

    Dropping it drops the streams; dropping an iterator over it aborts them.
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
        # Not sooner: the tasks keep the streams alive, and nobody but an iterator can be sure to end them.
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
            # Raises what ended a stream before its time.
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
