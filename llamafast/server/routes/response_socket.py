"""WebSocket /v1/responses: several responses over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import APIRouter, Response, WebSocket
from prometheus_client import Gauge
from starlette.types import Message

from llamafast.errors import InvalidRequestError, LlamaFastError, QueueFullError, ShuttingDownError
from llamafast.server.answers.failure import failure_of
from llamafast.server.answers.openai import OPENAI
from llamafast.server.answers.responses import LINES
from llamafast.server.delivery import AnswerStream
from llamafast.server.lanes import Create, LaneConnection, LaneLimits
from llamafast.server.responses.recent import RecentResponses
from llamafast.server.responses.service import Responses, StartedResponse
from llamafast.server.state import ServerState

_MAX_CONNECTIONS = 256
_TRY_AGAIN_LATER = 1013  # close codes
_POLICY_VIOLATION = 1008
_MAX_RECENT_BYTES = 32 * 2**20  # of one connection


class ResponseSockets:
    """The open WebSockets of one application.

    max_connections: more are refused with a 503. limits: of each connection.
    """

    def __init__(
        self,
        state: ServerState,
        responses: Responses,
        *,
        max_connections: int = _MAX_CONNECTIONS,
        limits: LaneLimits | None = None,
    ) -> None:
        self._state = state
        self._responses = responses
        self._max_connections = max_connections
        self._limits = limits or LaneLimits()
        self._open: set[LaneConnection] = set()
        self._is_closing = False
        for name, text, count in (
            ("websockets", "Open WebSockets of responses.", lambda: len(self._open)),
            ("websocket_lanes_active", "Lanes that have a create.", lambda: sum(c.num_active for c in self._open)),
            (
                "websocket_creates_waiting",
                "Creates that wait for an earlier create of their lane.",
                lambda: sum(c.num_waiting for c in self._open),
            ),
        ):
            Gauge(f"llamafast:{name}", text, registry=state.registry).set_function(count)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection until it is closed."""
        if not _is_own_page(socket):
            await socket.close(_POLICY_VIOLATION)  # before accept(): the handshake is answered with a 403
            return
        if self._is_closing:
            await _refuse(socket, ShuttingDownError("the server is shutting down"))
            return
        if len(self._open) >= self._max_connections:
            await _refuse(socket, QueueFullError(f"{len(self._open)} WebSockets are open; try again later"))
            return
        recent = RecentResponses(_MAX_RECENT_BYTES)
        connection = LaneConnection(
            socket,
            lambda raw: self._state.load_message(raw, _never),
            lambda create: self._answer(create, recent),
            self._limits,
        )
        self._open.add(connection)
        try:
            await socket.accept()
            await connection.run()
        finally:
            self._open.discard(connection)

    def close(self) -> None:
        """Close each connection when its running responses have ended. New creates and connections are refused."""
        self._is_closing = True
        for connection in self._open:
            connection.close()

    async def _answer(self, create: Create, recent: RecentResponses) -> AsyncIterator[list[bytes]]:
        """The events of one create, in batches. Raises what Responses.ask_message and Responses.start raise."""
        parent_id = create.fields.get("previous_response_id")
        try:
            started = await self._start(create, recent)
        except LlamaFastError:
            if isinstance(parent_id, str):
                recent.forget(parent_id, create.stream_id)
            raise

        async def commit() -> None:
            await self._responses.keep(started)
            recent.add(started.ended(), create.stream_id)

        stream = AnswerStream(started.outputs, started.formatter, commit)
        try:
            async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]
                async for data in pieces:
                    yield data.splitlines()
            if started.formatter.status == "failed" and isinstance(parent_id, str):
                recent.forget(parent_id, create.stream_id)
        finally:
            await stream.aclose()

    async def _start(self, create: Create, recent: RecentResponses) -> StartedResponse:
        asked = await self._responses.ask_message(create.fields, create.cost, _never, recent)
        if asked.body.background:
            raise InvalidRequestError("background responses need HTTP, not a WebSocket", param="background")
        return await self._responses.start(asked, _never, framing=LINES)


def response_socket_router(sockets: ResponseSockets) -> APIRouter:
    """The route that serves `sockets`."""
    router = APIRouter()
    router.add_api_websocket_route("/v1/responses", sockets.serve)
    return router


def _is_own_page(socket: WebSocket) -> bool:
    """Whether a browser may open the socket: from a page of this server only. Other clients send no Origin.

    Browsers let every page open WebSockets to every server and read the answers, as no CORS rule applies to them.
    """
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


async def _refuse(socket: WebSocket, error: LlamaFastError) -> None:
    """Answer the handshake with an error."""
    if "websocket.http.response" not in socket.scope.get("extensions", {}):
        await socket.close(_TRY_AGAIN_LATER)
        return
    document = OPENAI.error_document(failure_of(error))
    headers = {"retry-after": "1"}
    await socket.send_denial_response(
        Response(document, HTTPStatus.SERVICE_UNAVAILABLE, headers, media_type="application/json")
    )


async def _never() -> Message:
    """ASGI's receive for work that ends by cancellation: the reader of the connection sees the disconnect."""
    message: Message = await asyncio.get_running_loop().create_future()
    return message
