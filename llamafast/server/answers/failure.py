"""An error as clients see it, before a dialect renders it."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from llamafast.errors import LlamaFastError

_MAX_MESSAGE_CHARS = 4000
_MAX_PARAM_CHARS = 500

INTERNAL_MESSAGE = "the server met an internal error; its log has the details"


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a request gets no answer, or an incomplete one.

    message: one sentence for the client. It may quote the request, so a long message is cut.
    status: the HTTP status, if the response has not started.
    type: OpenAI's kind of error: "invalid_request_error" or "server_error".
    param: the path of the request field at fault, cut if it is long; None: no single field is at fault.
    code: the error code, for programs; None for no code.
    retry_after: seconds until another try may succeed; None if that is not known.
    """

    message: str
    status: int
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if len(self.message) > _MAX_MESSAGE_CHARS:
            object.__setattr__(self, "message", self.message[:_MAX_MESSAGE_CHARS] + "…")
        if self.param is not None:
            object.__setattr__(self, "param", self.param[:_MAX_PARAM_CHARS])


def failure_of(exc: Exception) -> Failure:
    """The failure for an exception. An exception that is not a LlamaFastError reveals nothing of its message."""
    if isinstance(exc, LlamaFastError):
        return Failure(exc.message, exc.status, exc.type, exc.param, exc.code, exc.retry_after)
    return Failure(INTERNAL_MESSAGE, HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", code="internal_error")
