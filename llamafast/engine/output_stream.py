"""OutputStream: the outputs of one request, as an async iterator on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, Protocol

from llamafast.engine.protocol import OutputT


class RequestEnder(Protocol):
    """Ends requests by id. Thread-safe. Unknown and finished requests are ignored."""

    def abort(self, request_id: str) -> None:
        """End a request before the next step."""

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request before the next step, as if it were complete."""


class OutputStream(AsyncIterator[list[OutputT]], Generic[OutputT]):
    """An iterator over a request's outputs. Each item is the list of outputs since the previous item.

    It ends after the request's last output. Deleting the stream aborts the request.
    """

    def __init__(self, ender: RequestEnder, request_id: str) -> None:
        self.request_id = request_id
        self._ender = ender
        self._outputs: list[OutputT] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_done = False

    def __aiter__(self) -> OutputStream[OutputT]:
        return self

    async def __anext__(self) -> list[OutputT]:
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
        """End the request before the next step, and this iteration. Ignored after its end. Thread-safe."""
        if not self._is_done:
            self._is_done = True
            self._ender.abort(self.request_id)

    def finish(self, index: int) -> None:
        """End one choice before the next step, as a stop string would. Its last output is still delivered."""
        if not self._is_done:
            self._ender.finish(self.request_id, index)

    async def aclose(self) -> None:
        """Abort the request, and end a pending wait."""
        self.abort()
        self._wake()

    def __del__(self) -> None:
        self.abort()

    def push(self, output: OutputT, is_last: bool) -> None:
        """Add an output; is_last ends the stream after it. Call it on the event loop."""
        if not self._is_done:
            self._outputs.append(output)
            self._is_done = is_last
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
