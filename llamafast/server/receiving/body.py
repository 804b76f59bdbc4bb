"""Turns the bytes of a request body into a validated record without blocking the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import orjson
from fastapi import Request
from starlette.types import Receive

from llamafast import caps
from llamafast._json_shape import shape_of
from llamafast.errors import InvalidRequestError, QueueFullError, RequestTooLargeError
from llamafast.server.receiving import json_body
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.receiving.unknown_fields import UnknownFields
from llamafast.server.schemas.common import JsonBody, parse_body

Body = TypeVar("Body", bound=JsonBody)
T = TypeVar("T")

# A body with a higher cost is parsed, checked, rendered and tokenized in a thread: on the event loop this would take
# more than about 5 ms. The unit is bytes. Objects cost extra: most of them are messages, which are rendered. Strings
# cost extra: they may be tokenized.
_INLINE_COST = 20_000
_OBJECT_COST = 1000
_STRING_COST = 50
# Computing the cost of this many bytes takes a millisecond. Longer bodies go to a thread at once.
_SCANNED_INLINE = 1_000_000

# The greatest total size of bodies that are received and not yet parsed, as a multiple of the greatest body size.
_MAX_HELD_BODIES = 8


class BodyReader:
    """Reads the bodies of all routes.

    preparation: the threads for large bodies.
    unknown_fields: counts fields that the schema does not have.
    max_bytes: the greatest size of a body, in bytes.
    is_strict: an unknown field is an error.
    """

    def __init__(
        self, preparation: Preparation, unknown_fields: UnknownFields, *, max_bytes: int, is_strict: bool
    ) -> None:
        self._preparation = preparation
        self._unknown_fields = unknown_fields
        self._max_bytes = max_bytes
        self._is_strict = is_strict
        self._num_held_bytes = 0

    async def read(self, request: Request, body_type: type[Body], work: Callable[[Body], T]) -> T:
        """Validate the body and return work(body). Both run in a thread if they may take long.

        Raises what `work` raises, RequestTooLargeError, InvalidRequestError, ClientDisconnect, QueueFullError,
        ShuttingDownError.
        """
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks)
            num_bytes = sum(map(len, chunks))
            if num_bytes > _SCANNED_INLINE:
                return await self._preparation.run(
                    request.receive, _SCANNED_INLINE + num_bytes, lambda: work(self._parse(b"".join(chunks), body_type))
                )
            raw = b"".join(chunks)
            cost = cost_of(raw)
            if cost <= _INLINE_COST:
                return work(self._parse(raw, body_type))
            return await self._preparation.run(request.receive, cost, lambda: work(self._parse(raw, body_type)))
        finally:
            self._num_held_bytes -= sum(map(len, chunks))

    async def load(self, raw: bytes, receive: Receive) -> tuple[object, int]:
        """Parse the JSON of a message that is not an HTTP body. Returns the document and its cost for validate().

        A long message is parsed in a thread. Raises InvalidRequestError, QueueFullError, ShuttingDownError.
        """
        if len(raw) > _SCANNED_INLINE:
            cost = _SCANNED_INLINE + len(raw)
            return await self._preparation.run(receive, cost, lambda: self._load(raw)), cost
        return self._load(raw), cost_of(raw)

    async def validate(
        self, document: object, cost: int, receive: Receive, body_type: type[Body], work: Callable[[Body], T]
    ) -> T:
        """Validate a document that load() returned, and return work(body). Both run in a thread if they may take long.

        Raises what read() raises, except RequestTooLargeError.
        """
        if cost <= _INLINE_COST:
            return work(self._validate(document, body_type))
        return await self._preparation.run(receive, cost, lambda: work(self._validate(document, body_type)))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        """Receive the body. OUT chunks. Raises at the first chunk that exceeds a limit; later chunks are not read."""
        limit = self._max_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise RequestTooLargeError(f"the request body has {declared[:20]} bytes; the limit is {limit}")
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RequestTooLargeError(f"the request body is longer than {limit} bytes")
            chunks.append(chunk)
            self._num_held_bytes += len(chunk)
            if self._num_held_bytes > _MAX_HELD_BODIES * limit:
                raise QueueFullError("too many large request bodies at once; try again later")

    def _parse(self, raw: bytes, body_type: type[Body]) -> Body:
        return self._validate(self._load(raw), body_type)

    def _load(self, raw: bytes) -> object:
        check_shape(raw)
        try:
            return json_body.loads(raw)
        except orjson.JSONDecodeError as exc:
            raise InvalidRequestError(f"the request body is not valid JSON: {exc}", code="invalid_json") from exc

    def _validate(self, document: object, body_type: type[Body]) -> Body:
        body, unknown = parse_body(document, body_type)
        if unknown and self._is_strict:
            raise InvalidRequestError(f"unknown field '{unknown[0]}'", param=unknown[0], code="unknown_field")
        for name in unknown:
            self._unknown_fields.note(name)
        return body


def cost_of(raw: bytes) -> int:
    """An estimate of the time from JSON to tokens. The unit is the time to tokenize one character."""
    shape = shape_of(raw)
    return len(raw) + _OBJECT_COST * shape.num_objects + _STRING_COST * shape.num_strings


def check_shape(raw: bytes) -> None:
    """Refuse JSON that would take long to parse: no other thread runs meanwhile. Raises InvalidRequestError."""
    shape = shape_of(raw)
    if shape.depth > caps.MAX_JSON_DEPTH:
        raise InvalidRequestError(f"the request body is nested deeper than {caps.MAX_JSON_DEPTH}")
    if shape.num_fields > caps.MAX_FIELDS:
        raise InvalidRequestError(f"the request body has {shape.num_fields} fields; the limit is {caps.MAX_FIELDS}")
    if shape.weight > caps.MAX_JSON_WEIGHT:
        param = shape.largest[:64].decode("utf-8", "replace") or None
        raise InvalidRequestError(
            f"{param or 'the request body'}: too many JSON values; the limit is about {caps.MAX_JSON_WEIGHT}",
            param=param,
        )
