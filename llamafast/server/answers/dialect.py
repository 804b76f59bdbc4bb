"""The parts of an API's wire format that no single answer defines: the form of errors and the framing of streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from llamafast.server.answers.failure import Failure
from llamafast.server.answers.framing import Framing


class Dialect(ABC):
    """The wire format of one API. It has no state: all requests of the API share one object.

    framing: how the API's streams are framed over HTTP.
    error_event: the name of the frame that reports an error in a stream.
    """

    framing: ClassVar[Framing]
    error_event: ClassVar[bytes] = b"error"

    @abstractmethod
    def error_document(self, failure: Failure) -> bytes:
        """The JSON document that reports a failure."""

    def status(self, failure: Failure) -> int:
        """The HTTP status of a failure."""
        return failure.status

    def error_frame(self, failure: Failure, framing: Framing) -> bytes:
        """The frame that reports a failure in a stream that has started."""
        return framing.frame(self.error_event, self.error_document(failure))
