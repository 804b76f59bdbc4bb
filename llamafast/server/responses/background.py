"""Responses that run without their client, and streams of events that are kept."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import orjson

from llamafast.responses.database import StoredResponse
from llamafast.responses.store import ResponseStore
from llamafast.server.answers.framing import Framing
from llamafast.server.answers.responses import RESPONSES, ResponseFormatter
from llamafast.server.delivery import AnswerStream, Outputs

_TOO_LARGE = {"code": "server_error", "message": "the response is too large for the store"}


class BackgroundRun:
    """A response that is generated whether or not anybody reads it.

    events: the JSON of its events so far; the index of each is its sequence number.
    is_over: no event follows.
    keeps_events: the events are stored too.
    """

    def __init__(
        self,
        outputs: Outputs,
        formatter: ResponseFormatter,
        row: StoredResponse,
        store: ResponseStore,
        on_end: Callable[[], object],
        *,
        keeps_events: bool,
    ) -> None:
        """formatter: writes one event per line. row: the stored response. on_end: called when the run is over."""
        self.events: list[bytes] = []
        self.is_over = False
        self._formatter = formatter
        self._row = row
        self._store = store
        self._on_end = on_end
        self.keeps_events = keeps_events
        self._stream = AnswerStream(outputs, formatter)
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def body(self) -> bytes:
        """The response object as it is now."""
        return orjson.dumps(self._formatter.response())

    async def cancel(self) -> None:
        """End the response as cancelled, unless it has ended. It is stored when this returns."""
        if self._formatter.status == "in_progress":
            self._task.cancel()
        await self.wait()

    async def wait(self) -> None:
        """Return when the run is over."""
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next event, and when the run is over. Take it before `events` is read."""
        return self._changed

    async def _run(self) -> None:
        try:
            async for data in self._stream:
                if self._stream.is_over:
                    await self._keep(data.splitlines())
                self._publish(data.splitlines())
        except asyncio.CancelledError:
            self._formatter.cancel()
            await self._stream.aclose()
            await self._keep([])
        finally:
            await self._stream.aclose()
            self.is_over = True
            self._changed.set()
            self._on_end()

    def _publish(self, events: Sequence[bytes]) -> None:
        self.events += events
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _keep(self, last: Sequence[bytes]) -> None:
        """Store the end of the response and, for a stream, all its events."""
        response_id, status = self._row.id, self._formatter.status
        token_ids = self._row.token_ids + array("i", self._formatter.token_ids).tobytes()
        row = replace(self._row, status=status, body=self.body(), token_ids=token_ids)
        if not await self._store.finish(row):
            failed = {**self._formatter.response(), "status": "failed", "error": _TOO_LARGE, "output": []}
            await self._store.finish(replace(self._row, status="failed", body=orjson.dumps(failed), token_ids=b""))
        elif self.keeps_events:
            await self._store.add_events(response_id, 0, [*self.events, *last])


class EventReplay:
    """The events of a response as a stream: those that are kept, then those that come while it runs."""

    def __init__(self, source: BackgroundRun | Sequence[bytes], after: int) -> None:
        """source: a run, or all events of a response that has ended. after: events up to this number are left out."""
        self.framing: Framing = RESPONSES.framing
        self.is_over = False
        self._source = source
        self._next = after + 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        source = self._source
        if isinstance(source, BackgroundRun):
            while not source.is_over:
                changed = source.changed
                if data := self._new(source.events):
                    yield data
                await changed.wait()
            source = source.events
        last = self._new(source) + self.framing.end
        self.is_over = True
        yield last

    def keepalive(self) -> bytes:
        """What to send in a long pause."""
        return self.framing.keepalive

    async def aclose(self) -> None:
        """The run goes on without readers."""

    def _new(self, events: Sequence[bytes]) -> bytes:
        start, self._next = self._next, max(self._next, len(events))
        return b"".join(self.framing.frame(_type_of(event), event) for event in events[start:])


def _type_of(event: bytes) -> bytes:
    """The type of an event: it is the first field of its JSON."""
    start = len(b'{"type":"')
    return event[start : event.index(b'"', start)]
