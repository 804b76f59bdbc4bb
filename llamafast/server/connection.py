"""HTTP connections: a client that closes its sending side still gets its answer; a client that has gone is noticed."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llamafast.server.answers.failure import Failure
from llamafast.server.answers.framing import KEEPALIVE
from llamafast.server.answers.openai import OPENAI

_COMMENT_CHUNK = b"%x\r\n%s\r\n" % (len(KEEPALIVE), KEEPALIVE)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
)

_FIRST_LOOK_S = 0.02  # from the end of the client's side to the first look at the connection
_LOOK_S = 0.25  # from one look to the next
_LOOKS_PER_KNOCK = 20


def mark_event_stream(scope: Scope) -> None:
    """Say that the answer is server-sent events, each sent whole: a comment may be sent between two of them."""
    scope.setdefault("state", {})["is_event_stream"] = True


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, but it stays open when the client closes its sending side before the answer is complete.

    A client that closes its sending side and one that closes the whole connection send the same. To tell them apart,
    the server sends something harmless, a 100 or a comment between events: only a client that is gone resets the
    connection, and a look at the socket shows that.
    """

    _is_half_closed = False
    _num_looks = 0
    _look_timer: asyncio.TimerHandle | None = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """True keeps the transport open."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        self._is_half_closed = True
        self._knock()
        self._look_timer = self.loop.call_later(_FIRST_LOOK_S, self._look)
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP with OpenAI's error object: no path says which API they are meant for."""
        failure = Failure("the request is not valid HTTP", 400, "invalid_request_error", code="invalid_http")
        body = OPENAI.error_document(failure)
        self.transport.write(_BAD_REQUEST % len(body) + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        """Close after the last answer: the client can ask for nothing more."""
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking at the connection."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """End the connection if the client has reset it; look again later, until the answer is complete."""
        if self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):  # an error or a hang-up; an end of input alone is none
            self.transport.abort()
            return
        self._num_looks += 1
        if not self._num_looks % _LOOKS_PER_KNOCK:
            self._knock()
        self._look_timer = self.loop.call_later(_LOOK_S, self._look)

    def _knock(self) -> None:
        """Send something harmless, if the state of the answer allows it."""
        cycle: Any = self.cycle
        if self.pipeline:  # the answer in progress belongs to an earlier request
            return
        if cycle.response_started:
            if cycle.chunked_encoding and cycle.scope["state"].get("is_event_stream"):
                self.transport.write(_COMMENT_CHUNK)
        elif cycle.scope["http_version"] == "1.1":
            self.transport.write(_CONTINUE)
