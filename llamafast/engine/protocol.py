"""StepEngine: the interface of an engine for the code that runs it, such as EngineThread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from llamafast.engine.metrics import EngineStats
from llamafast.engine.snapshot import EngineSnapshot


class PreparedRequest(Protocol):
    """A request that an engine has checked and built."""

    @property
    def request_id(self) -> str:
        """The id of the request. All its outputs have the same."""


class Output(Protocol):
    """The result of one step for one request."""

    @property
    def request_id(self) -> str:
        """The id of the request."""

    @property
    def is_last(self) -> bool:
        """Whether the request has ended with this output."""


RequestT = TypeVar("RequestT", contravariant=True)
PreparedT = TypeVar("PreparedT", bound=PreparedRequest)
OutputT = TypeVar("OutputT", bound=Output)


class StepEngine(Protocol[RequestT, PreparedT, OutputT]):
    """An engine that works in steps.

    Any thread may call prepare_cost(), prepare() and failure(), and read stats, n_seq_max, num_waiting and death. All
    other members belong to one thread. The engine computes only inside its methods. If the work for one request fails,
    that request ends with an error and the engine continues. If a method other than prepare() raises, the engine cannot
    be used any longer, and its thread closes it.
    """

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges."""

    @property
    def n_seq_max(self) -> int:
        """Maximum number of sequences that run at once."""

    @property
    def num_waiting(self) -> int:
        """Number of requests that were added and do not run yet."""

    @property
    def death(self) -> str | None:
        """The reason why the engine stopped working; None while it works."""

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""

    @property
    def is_stalled(self) -> bool:
        """Whether all work waits for an external event: step() has no effect before a wake-up (on_wake) or a call."""

    def prepare_cost(self, request: RequestT) -> int:
        """Estimate of the microseconds that prepare() takes."""

    def prepare(self, request: RequestT) -> PreparedT:
        """Check a request and build its own objects.

        Raises InvalidRequestError or ContextLengthError with the field, EngineDeadError.
        """

    def add(self, prepared: PreparedT) -> None:
        """Queue a request. Raises EngineDeadError, InvalidRequestError if its id is in use."""

    def abort(self, request_id: str) -> None:
        """End a request. The next step() returns its last output. An unknown id is ignored."""

    def finish(self, request_id: str, index: int) -> None:
        """End one choice of a request as if it were complete. An unknown or finished choice is ignored."""

    def abort_all(self) -> list[OutputT]:
        """End all requests and return their last outputs."""

    def step(self) -> list[OutputT]:
        """Compute one step. Returns its outputs, and the last outputs of requests that ended without a step.

        After a fatal error it sets `death` and returns the last outputs of all requests.
        """

    def failure(self, request_id: str, error: Exception) -> OutputT:
        """The last output of a request that the engine could not end itself."""

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Set the function that is called, from any thread, to wake a stalled engine. Call it before step()."""

    def snapshot(self) -> EngineSnapshot:
        """A record of the current work. Any thread may call it after close()."""

    def check_integrity(self) -> None:
        """Assert that the engine's records are consistent. For tests and debug runs."""

    def close(self) -> None:
        """Free everything. Idempotent."""
