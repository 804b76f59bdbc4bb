"""Errors raised before a response has started, written in the dialect of the request's path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llamafast.errors import LlamaFastError
from llamafast.server.answers.dialect import Dialect
from llamafast.server.answers.failure import Failure, failure_of
from llamafast.server.answers.openai import OPENAI

# nginx's status for a closed connection. No client receives it.
CLIENT_CLOSED = 499

# The dialect of each API, by the prefix of its paths. The longest prefix that fits decides.
DIALECTS: Mapping[str, Dialect] = {"": OPENAI}


def install_error_handlers(app: FastAPI, dialects: Mapping[str, Dialect] = DIALECTS) -> None:
    """Answer errors raised on purpose, unknown routes, wrong methods and bugs in the dialect of the request's path."""
    handlers = _ErrorHandlers(dialects)
    app.add_exception_handler(LlamaFastError, handlers.on_error)
    app.add_exception_handler(HTTPException, handlers.on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, handlers.on_error)


def dialect_of(path: str, dialects: Mapping[str, Dialect] = DIALECTS) -> Dialect:
    """The dialect of a path. The entry "" fits every path."""
    return dialects[max((start for start in dialects if path.startswith(start)), key=len)]


@dataclass(frozen=True, slots=True)
class _ErrorHandlers:
    """Exception handlers of one application. dialects: as install_error_handlers takes them."""

    dialects: Mapping[str, Dialect]

    async def on_error(self, request: Request, exc: Exception) -> Response:
        """The response for an exception. Errors raised on purpose keep their status; any other exception is a 500."""
        failure = failure_of(exc)
        headers: dict[str, str] = {}
        if failure.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = str(max(1, math.ceil(failure.retry_after or 1.0)))
        elif failure.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # The rest of the body is still on its way: only a closed connection stops it.
            headers["connection"] = "close"
        return self._response(request, failure, headers)

    async def on_http_exception(self, request: Request, exc: Exception) -> Response:
        """The response for an unknown route or a wrong method."""
        assert isinstance(exc, HTTPException)
        status, where = exc.status_code, f"{request.method} {request.url.path}"
        if status == HTTPStatus.NOT_FOUND:
            failure = Failure(f"unknown route: {where}", status, "invalid_request_error", code="not_found")
        elif status == HTTPStatus.METHOD_NOT_ALLOWED:
            failure = Failure(f"wrong method: {where}", status, "invalid_request_error", code="method_not_allowed")
        else:
            kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
            failure = Failure(str(exc.detail), status, kind)
        return self._response(request, failure, exc.headers)

    def _response(self, request: Request, failure: Failure, headers: Mapping[str, str] | None) -> Response:
        dialect = dialect_of(request.url.path, self.dialects)
        document, status = dialect.error_document(failure), dialect.status(failure)
        return Response(document, status, headers, media_type="application/json")


async def _on_disconnect(request: Request, exc: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)
