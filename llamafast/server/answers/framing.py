"""How the JSON documents of a stream are written as bytes, one after another."""

from __future__ import annotations

from dataclasses import dataclass

EVENT_STREAM = "text/event-stream"

# A comment of server-sent events: clients ignore it.
KEEPALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class Framing:
    """The bytes before and after each JSON document of a stream. A document with these bytes is a frame.

    Server-sent events set `before` to b"data: ". JSON lines set only `after`, to b"\\n"; a WebSocket sends each line
    as one text frame: JSON from orjson contains no newline.

    media_type: the Content-Type of the stream.
    after: the bytes after each document.
    before: the bytes in front of each document.
    event: the bytes in front of `before`, with %b for the name of the event; b"" where events have no names.
    end: the bytes after the last frame; b"" for none.
    keepalive: bytes that clients ignore, for long pauses; b"" for none.
    """

    media_type: str
    after: bytes
    before: bytes = b""
    event: bytes = b""
    end: bytes = b""
    keepalive: bytes = b""

    def opening(self, event: bytes) -> bytes:
        """The bytes of a frame before its document. Formatters render it once for many frames."""
        return self.event % event + self.before if self.event else self.before

    def frame(self, event: bytes, document: bytes) -> bytes:
        """One frame. event: its name, ignored where events have none."""
        return self.opening(event) + document + self.after
