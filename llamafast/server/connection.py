"""HTTP connections that tell a client that only closed its sending side from a client that disconnected.

The first one still gets its answer. For the second one the work ends.
"""

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

_FIRST_LOOK_S = 0.02  # from the close of the client's side to the first poll of the socket
_LOOK_S = 0.25  # from one poll to the next
_LOOKS_PER_KNOCK = 20


def mark_event_stream(scope: Scope) -> None:
    """Mark the answer as server-sent events. Each event is one write, so a comment may be sent between events."""
    scope.setdefault("state", {})["is_event_stream"] = True


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, but it stays open when the client closes its sending side before the answer is complete.

    A client that closes its sending side sends the same packet as a client that closes the whole connection. To tell
    them apart, the server sends bytes that clients ignore: a status 100, or a comment between two events. A client that
    has disconnected answers them with a reset, which a poll of the socket shows.
    """

    _is_half_closed = False
    _num_looks = 0
    _look_timer: asyncio.TimerHandle | None = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called when the client closes its sending side. Returns True to keep the transport open."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        self._is_half_closed = True
        self._knock()
        self._look_timer = self.loop.call_later(_FIRST_LOOK_S, self._look)
        return True

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with OpenAI's error object: without a path no other dialect can be chosen."""
        failure = Failure("the request is not valid HTTP", 400, "invalid_request_error", code="invalid_http")
        body = OPENAI.error_document(failure)
        self.transport.write(_BAD_REQUEST % len(body) + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        """Close a half-closed connection after its last answer: the client cannot send another request."""
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop polling the socket."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Abort the connection if the client has reset it. Otherwise poll again later, until the answer is complete."""
        if self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):  # an error or a hang-up; a closed sending side is neither
            self.transport.abort()
            return
        self._num_looks += 1
        if not self._num_looks % _LOOKS_PER_KNOCK:
            self._knock()
        self._look_timer = self.loop.call_later(_LOOK_S, self._look)

    def _knock(self) -> None:
        """Send bytes that clients ignore, if the state of the answer allows it."""
        cycle: Any = self.cycle
        if self.pipeline:  # the answer in progress belongs to an earlier request
            return
        if cycle.response_started:
            if cycle.chunked_encoding and cycle.scope["state"].get("is_event_stream"):
                self.transport.write(_COMMENT_CHUNK)
        elif cycle.scope["http_version"] == "1.1":
            self.transport.write(_CONTINUE)
