"""Several responses over one WebSocket: one reader, a queue of creates for each lane, and one bounded writer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from llamafast.errors import InvalidRequestError, LlamaFastError, QueueFullError, ShuttingDownError
from llamafast.server.answers.failure import failure_of

logger = logging.getLogger("llamafast.server")

JsonObject = dict[str, object]

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)

# Close codes of RFC 6455, and the one for "try again later".
POLICY_VIOLATION = 1008
GOING_AWAY = 1001


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The limits of one connection.

    max_active: responses that run at the same time.
    max_lanes: distinct stream ids in the life of the connection.
    max_queued: creates that wait in one lane.
    max_unsent_bytes: size of the frames that wait to be sent.
    send_timeout_s: seconds without a sent frame after which the connection is closed.
    max_age_s: seconds after which the connection takes no create; 0: no limit.
    """

    max_active: int = 16
    max_lanes: int = 32
    max_queued: int = 32
    max_unsent_bytes: int = 8 * 2**20
    send_timeout_s: float = 60.0
    max_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Create:
    """A `response.create`.

    fields: its fields, without `type` and `stream_id`. stream_id: its lane; None: the lane without a name. cost: the
    estimated time to read it, in the unit of ServerState.prepare_message.
    """

    fields: JsonObject
    stream_id: str | None
    cost: int


# Parses a frame into a JSON document and its cost. Raises LlamaFastError.
Load = Callable[[bytes], Awaitable[tuple[object, int]]]

# Answers a create with the JSON of its events, in batches. It ends the response when it is closed.
Answer = Callable[[Create], AsyncIterator[list[bytes]]]


class _Lane:
    """Creates of one stream id, one after the other."""

    __slots__ = ("suffix", "task", "waiting")

    def __init__(self, stream_id: str | None) -> None:
        self.waiting: deque[Create] = deque()
        self.task: asyncio.Task[None] | None = None
        # The bytes after the other fields of each event of the lane.
        self.suffix = b"" if stream_id is None else b',"stream_id":' + orjson.dumps(stream_id)


class LaneConnection:
    """One open WebSocket. Lanes run side by side, up to a limit; within a lane one response follows another.

    Each event is one text frame. A client that does not read slows only its own responses, and its connection is closed
    after `send_timeout_s`.
    """

    def __init__(self, socket: WebSocket, load: Load, answer: Answer, limits: LaneLimits) -> None:
        self._socket = socket
        self._load = load
        self._answer = answer
        self._limits = limits
        self._lanes: dict[str | None, _Lane] = {}
        self._slots = asyncio.Semaphore(limits.max_active)
        self._unsent: deque[str] = deque()
        self._num_unsent_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._flood = asyncio.Event()  # the client causes errors and reads no frames
        self._is_closing = False
        self._close_code = 1000
        self._is_old = False

    @property
    def num_active(self) -> int:
        """Responses that run or wait for their turn."""
        return sum(lane.task is not None for lane in self._lanes.values())

    @property
    def num_waiting(self) -> int:
        """Creates that wait for an earlier create of their lane."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    async def run(self) -> None:
        """Serve the accepted socket until it is closed. When this returns, all its responses have ended."""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        timer = asyncio.create_task(self._age())
        flood = asyncio.create_task(self._flood.wait())
        try:
            await asyncio.wait([writer, reader, flood], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_closing = True
            tasks = [writer, reader, timer, flood, *(lane.task for lane in self._lanes.values() if lane.task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._socket.client_state is WebSocketState.CONNECTED:
                with suppress(RuntimeError, OSError, WebSocketDisconnect):
                    await self._socket.close(self._close_code)

    def close(self, code: int = GOING_AWAY) -> None:
        """Take no more creates and refuse those that wait, let those that run finish, then close."""
        self._is_closing = True
        self._close_code = code
        for stream_id, lane in self._lanes.items():
            for _ in range(len(lane.waiting)):
                lane.waiting.pop()
                self._send_error(_shutting_down(), stream_id)
        self._wake.set()

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._send_error(InvalidRequestError("frames must be text", code="invalid_request"), None)
                continue
            del message
            try:
                document, cost = await self._load(text.encode())
            except LlamaFastError as exc:
                self._send_error(exc, None)
                continue
            del text  # a frame may be large, and the next one may come late
            if not isinstance(document, dict):
                self._send_error(InvalidRequestError("a frame must be a JSON object"), None)
                continue
            self._take(document, cost)
            del document

    def _take(self, document: JsonObject, cost: int) -> None:
        kind, stream_id = document.pop("type", None), document.pop("stream_id", None)
        if stream_id is not None and not (isinstance(stream_id, str) and _STREAM_ID.fullmatch(stream_id)):
            error = InvalidRequestError(
                "stream_id: 1 to 256 of the characters A-Z, a-z, 0-9, _, . and -",
                param="stream_id",
                code="invalid_stream_id",
            )
            self._send_error(error, None)
            return
        if kind == "response.create":
            try:
                self._queue(Create(document, stream_id, cost))
            except LlamaFastError as exc:
                self._send_error(exc, stream_id)
        elif kind == "response.steer":
            self._send_steer_failed(document)
        elif kind != "response.processed":
            error = InvalidRequestError(
                f"events of type '{str(kind)[:64]}' are not known", param="type", code="unknown_event"
            )
            self._send_error(error, stream_id)

    def _queue(self, create: Create) -> None:
        """Raises LlamaFastError."""
        if self._is_closing:
            raise _shutting_down()
        if self._is_old:
            raise InvalidRequestError(
                "this connection has reached its age limit; open a new one", code="websocket_connection_limit_reached"
            )
        lane = self._lanes.get(create.stream_id)
        if lane is None:
            num_named = len(self._lanes) - (None in self._lanes)
            if create.stream_id is not None and num_named >= self._limits.max_lanes:
                raise InvalidRequestError(
                    f"a connection has at most {self._limits.max_lanes} stream ids",
                    param="stream_id",
                    code="websocket_stream_limit_reached",
                )
            lane = self._lanes[create.stream_id] = _Lane(create.stream_id)
        if len(lane.waiting) >= self._limits.max_queued:
            raise QueueFullError(f"{len(lane.waiting)} responses wait in this lane; try again later", retry_after=1.0)
        lane.waiting.append(create)
        if lane.task is None:
            lane.task = asyncio.create_task(self._run_lane(lane))

    async def _run_lane(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                async with self._slots:
                    if lane.waiting:
                        await self._run_response(lane, lane.waiting.popleft())
        finally:
            lane.task = None
            self._wake.set()

    async def _run_response(self, lane: _Lane, create: Create) -> None:
        try:
            async with aclosing(self._answer(create)) as batches:  # type: ignore[type-var]
                async for events in batches:
                    for event in events:
                        self._put(event[:-1] + lane.suffix + b"}" if lane.suffix else event)
                    await self._room.wait()
        except LlamaFastError as exc:
            self._send_error(exc, create.stream_id)
        except Exception as exc:  # without a frame the client would wait for ever
            logger.exception("a response failed")
            self._send_error(exc, create.stream_id)

    def _put(self, event: bytes) -> None:
        self._unsent.append(event.decode())
        self._num_unsent_bytes += len(event)
        if self._num_unsent_bytes > self._limits.max_unsent_bytes:
            self._room.clear()
        if self._num_unsent_bytes > 2 * self._limits.max_unsent_bytes:
            self._close_code = POLICY_VIOLATION
            self._flood.set()
        self._wake.set()

    async def _write(self) -> None:
        """Send the frames. Returns when the connection is closing and no response runs or waits."""
        while True:
            while self._unsent:
                frame = self._unsent.popleft()
                try:
                    await asyncio.wait_for(self._socket.send_text(frame), self._limits.send_timeout_s)
                except (asyncio.TimeoutError, TimeoutError):
                    self._close_code = POLICY_VIOLATION
                    return
                except (RuntimeError, OSError, WebSocketDisconnect):  # the client has disconnected
                    return
                self._num_unsent_bytes -= len(frame.encode())
                if self._num_unsent_bytes <= self._limits.max_unsent_bytes // 2:
                    self._room.set()
            if self._is_closing and not self.num_active:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _age(self) -> None:
        if self._limits.max_age_s:
            await asyncio.sleep(self._limits.max_age_s)
            self._is_old = True

    def _send_error(self, error: Exception, stream_id: str | None) -> None:
        self._put(error_frame(error, stream_id))

    def _send_steer_failed(self, document: JsonObject) -> None:
        error = {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "this server cannot steer a running response",
        }
        steer = {"previous_response_id": document.get("previous_response_id"), "input": document.get("input")}
        self._put(orjson.dumps({"type": "response.steer.failed", "error": error, "steer": steer}))


def error_frame(error: Exception, stream_id: str | None) -> bytes:
    """The JSON of an error frame. Some clients ignore an error frame without a status and wait for ever."""
    failure = failure_of(error)
    document: JsonObject = {
        "type": "error",
        "status": int(failure.status),
        "error": {"type": failure.type, "code": failure.code, "message": failure.message, "param": failure.param},
    }
    if failure.retry_after is not None:
        document["headers"] = {"retry-after": str(max(1, round(failure.retry_after)))}
    if stream_id is not None:
        document["stream_id"] = stream_id
    return orjson.dumps(document)


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down and takes no new responses")
