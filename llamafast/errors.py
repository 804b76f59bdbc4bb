"""The exceptions of llamafast. Every class has an HTTP status, and an OpenAI error type and code."""

from __future__ import annotations

from typing import ClassVar


class LlamaFastError(Exception):
    """Base class of all errors that llamafast raises on purpose.

    status: HTTP status.
    type, code: OpenAI's error type and code; code None: none.
    message: one sentence for the client.
    param: the request field at fault; None: no field.
    retry_after: seconds after which the client may try again; None: unknown.
    """

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
    """The request is invalid."""

    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt, or the prompt with its minimum output, does not fit into the context."""

    default_code = "context_length_exceeded"


class GrammarError(InvalidRequestError):
    """A schema, regular expression or grammar does not compile, cannot be enforced, or exceeds a cap."""

    default_code = "invalid_grammar"


class NotFoundError(LlamaFastError):
    """The model or route does not exist."""

    status = 404
    type = "invalid_request_error"


class RequestTooLargeError(LlamaFastError):
    """The request body is larger than the server's limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class QueueFullError(LlamaFastError):
    """The waiting queue is full; try again after `retry_after` seconds."""

    status = 503
    type = "server_error"
    default_code = "queue_full"


class CompilerBusyError(LlamaFastError):
    """Too many grammars wait for compilation; try again after `retry_after` seconds."""

    status = 503
    type = "server_error"
    default_code = "compiler_busy"


class ShuttingDownError(LlamaFastError):
    """The server is shutting down: it finishes running requests and rejects new ones."""

    status = 503
    type = "server_error"
    default_code = "shutting_down"


class EngineDeadError(LlamaFastError):
    """The engine has stopped after a fatal error and serves no more requests."""

    status = 503
    type = "server_error"
    default_code = "engine_dead"


class RequestFailedError(LlamaFastError):
    """The engine failed at one request. It continues with the others."""

    default_code = "request_failed"


class DecodeError(LlamaFastError):
    """llama_decode failed. status_code 1: no free KV cells, nothing changed; any other value: a fatal error."""

    default_code = "decode_failed"

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class ModelLoadError(LlamaFastError):
    """The model file could not be loaded, or its context could not be created."""

    default_code = "model_load_failed"


class ConfigError(LlamaFastError):
    """The configuration is wrong; the message names the field."""

    default_code = "bad_config"


def request_failure(error: BaseException) -> LlamaFastError:
    """The error to report for a request that failed with `error`. Raises `error` again if it must end the program.

    `error` can be a BaseException that is not an Exception: a panic of a Rust library.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    if isinstance(error, LlamaFastError):
        return error
    return RequestFailedError(f"the engine failed at this request: {type(error).__name__}: {error}")
