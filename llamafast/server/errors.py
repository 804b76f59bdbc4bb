"""Every failure as OpenAI's error object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llamafast.errors import LlamaFastError

# nginx's word for a client that closed the connection; nobody receives it.
CLIENT_CLOSED = 499

_MAX_MESSAGE_CHARS = 4000
_MAX_PARAM_CHARS = 500

INTERNAL_MESSAGE = "the server met an internal error; its log has the details"


def error_object(message: str, type_: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """The JSON document {"error": {...}}. Messages quote what clients sent: of a long one the rest is cut."""
    if len(message) > _MAX_MESSAGE_CHARS:
        message = message[:_MAX_MESSAGE_CHARS] + "…"
    param = None if param is None else param[:_MAX_PARAM_CHARS]
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})


def error_json(exc: Exception) -> bytes:
    """The error object of any exception; one that was not raised on purpose shows nothing of its inside."""
    if isinstance(exc, LlamaFastError):
        return error_object(exc.message, exc.type, param=exc.param, code=exc.code)
    return error_object(INTERNAL_MESSAGE, "server_error", code="internal_error")


def install_error_handlers(app: FastAPI) -> None:
    """Answer errors raised on purpose, unknown routes, wrong methods and bugs in the same shape."""
    app.add_exception_handler(LlamaFastError, _on_known_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


async def _on_known_error(request: Request, exc: Exception) -> Response:
    status = exc.status if isinstance(exc, LlamaFastError) else HTTPStatus.INTERNAL_SERVER_ERROR
    headers: dict[str, str] = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = exc.retry_after if isinstance(exc, LlamaFastError) else None
        headers["retry-after"] = str(max(1, math.ceil(retry_after or 1.0)))
    elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # The rest of the body is still on its way: only a closed connection stops it.
        headers["connection"] = "close"
    return _json(error_json(exc), status, headers)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    headers = exc.headers if isinstance(exc, HTTPException) else None
    where = f"{request.method} {request.url.path}"
    if status == HTTPStatus.NOT_FOUND:
        document = error_object(f"unknown route: {where}", "invalid_request_error", code="not_found")
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        document = error_object(f"wrong method: {where}", "invalid_request_error", code="method_not_allowed")
    else:
        detail = str(exc.detail) if isinstance(exc, HTTPException) else INTERNAL_MESSAGE
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        document = error_object(detail, kind)
    return _json(document, status, headers)


async def _on_disconnect(request: Request, exc: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _on_bug(request: Request, exc: Exception) -> Response:
    return _json(error_json(exc), HTTPStatus.INTERNAL_SERVER_ERROR, None)


def _json(document: bytes, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(document, status, headers, media_type="application/json")
