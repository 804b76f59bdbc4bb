"""The interface of an answer that delivery uses, the same for all dialects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from llamafast.request import RequestOutput
from llamafast.server.answers.dialect import Dialect
from llamafast.server.answers.failure import failure_of
from llamafast.server.answers.framing import Framing
from llamafast.server.answers.progress import AnswerProgress

JsonObject: TypeAlias = dict[str, object]


class Formatter(ABC):
    """Renders the outputs of one HTTP request in one dialect.

    Streamed: start(), frames() for each delivery, end(). Whole: add() for each delivery, body(). When progress.error
    is set, failure() ends a stream, and a whole answer becomes the error.

    dialect: the API's errors and framing.
    progress: the ends of the choices, the error and the usage.
    framing: how this answer's frames are written.
    """

    dialect: ClassVar[Dialect]

    def __init__(self, progress: AnswerProgress, framing: Framing | None = None) -> None:
        """framing: None for the framing of the dialect over HTTP."""
        self.progress = progress
        self.framing = framing or self.dialect.framing

    def start(self) -> bytes:
        """The frames before any output."""
        return b""

    @abstractmethod
    def frames(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The frames of one delivery, joined; b"" if it has no visible output."""

    @abstractmethod
    def end(self) -> bytes:
        """The frames after the last output, and the end mark."""

    def failure(self, exc: Exception) -> bytes:
        """The frames that end a stream after an error."""
        return self.dialect.error_frame(failure_of(exc), self.framing)

    def keepalive(self) -> bytes:
        """The bytes that a stream sends in a long pause; b"" for none."""
        return self.framing.keepalive

    @abstractmethod
    def add(self, outputs: Sequence[RequestOutput]) -> None:
        """Keep one delivery for body()."""

    @abstractmethod
    def body(self) -> bytes:
        """The whole answer as one JSON document."""

    @property
    def is_large(self) -> bool:
        """Whether body() may take so long that it should run in a thread."""
        return False
