"""HTTP connections: a client that closes its sending side still gets its answer; a client that has gone is noticed."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llamafast.server.errors import error_object

KEEPALIVE = b": keep-alive\n\n"
_COMMENT_CHUNK = b"%x\r\n%s\r\n" % (len(KEEPALIVE), KEEPALIVE)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
)

_FIRST_LOOK_S = 0.02
_LOOK_S = 0.25
_LOOKS_PER_KNOCK = 20


def mark_event_stream(scope: Scope) -> None:
    """Say that the answer is server-sent events, each written whole: comments may stand between them."""
    scope.setdefault("state", {})["is_event_stream"] = True


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, but an end of what the client sends does not end it while an answer is due.

    Whether a client has closed its side or everything cannot be seen, for both send the same. So something harmless is
    sent, a 100 or a comment between events: only who is gone resets the connection, and that can be seen.
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
        """What is no HTTP gets OpenAI's error object too."""
        body = error_object("the request is not valid HTTP", "invalid_request_error", code="invalid_http")
        self.transport.write(_BAD_REQUEST % len(body) + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        """Close behind the last answer: nothing more can come."""
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Until the answer is out: end the connection once the client has reset it."""
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
        cycle: Any = self.cycle
        if self.pipeline:  # the answer that runs is another one's
            return
        if cycle.response_started:
            if cycle.chunked_encoding and cycle.scope["state"].get("is_event_stream"):
                self.transport.write(_COMMENT_CHUNK)
        elif cycle.scope["http_version"] == "1.1":
            self.transport.write(_CONTINUE)
