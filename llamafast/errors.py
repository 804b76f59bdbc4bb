"""The error tree: every class knows its HTTP status and its OpenAI error type and code."""

from __future__ import annotations

from typing import ClassVar


class LlamaFastError(Exception):
    """Base of all errors raised on purpose. `param` names the request field at fault, if any."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after = retry_after


class InvalidRequestError(LlamaFastError):
    """The request cannot be honoured as it is written."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt, or the prompt and the least output asked for, cannot fit the context."""

    default_code = "context_length_exceeded"


class GrammarError(InvalidRequestError):
    """A schema, regex or grammar that does not compile, cannot be enforced, or is beyond a cap."""

    default_code = "invalid_grammar"


class NotFoundError(LlamaFastError):
    """No such model or route."""

    status = 404
    type = "invalid_request_error"


class RequestTooLargeError(LlamaFastError):
    """The request body is larger than the server takes."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class QueueFullError(LlamaFastError):
    """The waiting queue is full; try again after `retry_after` seconds."""

    status = 503
    type = "server_error"
    default_code = "queue_full"


class CompilerBusyError(LlamaFastError):
    """Grammars compile slower than they come; try again after `retry_after` seconds."""

    status = 503
    type = "server_error"
    default_code = "compiler_busy"


class ShuttingDownError(LlamaFastError):
    """The server finishes what runs and takes nothing new."""

    status = 503
    type = "server_error"
    default_code = "shutting_down"


class EngineDeadError(LlamaFastError):
    """The engine met a fatal error and serves no more requests."""

    status = 503
    type = "server_error"
    default_code = "engine_dead"


class RequestFailedError(LlamaFastError):
    """The work for one request failed in the engine, which goes on with the others."""

    default_code = "request_failed"


class DecodeError(LlamaFastError):
    """llama_decode failed. `status_code` 1: no KV room, nothing changed; any other one is fatal."""

    default_code = "decode_failed"

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class ModelLoadError(LlamaFastError):
    """The model file or its context could not be made."""

    default_code = "model_load_failed"


class ConfigError(LlamaFastError):
    """The configuration is wrong; the message names the field."""

    default_code = "bad_config"


def request_failure(error: BaseException) -> LlamaFastError:
    """What a request is told whose own work raised `error`. Raises it again if it is meant to end the program.

    Every other exception counts, also one that is no Exception: a panic of a Rust library.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    if isinstance(error, LlamaFastError):
        return error
    return RequestFailedError(f"the engine failed at this request: {type(error).__name__}: {error}")
