"""What an engine is to those who run it: requests in, outputs out, step by step, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from llamafast.engine.metrics import EngineStats
from llamafast.engine.snapshot import EngineSnapshot


class PreparedRequest(Protocol):
    """A request that an engine has checked and built."""

    @property
    def request_id(self) -> str:
        """The same on all its outputs."""


class Output(Protocol):
    """What a request gained in one step."""

    @property
    def request_id(self) -> str:
        """The request's."""

    @property
    def is_last(self) -> bool:
        """Whether the request has ended with this output."""


RequestT = TypeVar("RequestT", contravariant=True)
PreparedT = TypeVar("PreparedT", bound=PreparedRequest)
OutputT = TypeVar("OutputT", bound=Output)


class StepEngine(Protocol[RequestT, PreparedT, OutputT]):
    """An engine that works in steps.

    Any thread may call prepare_cost(), prepare() and failure(), and read stats, n_seq_max, num_waiting and death. All
    other members belong to one thread. The engine works only inside of its methods. It survives the failure of one
    request, which then ends with an error. If a method other than prepare() raises, the engine is of no further use:
    its thread closes it.
    """

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges."""

    @property
    def n_seq_max(self) -> int:
        """Sequences that run at once."""

    @property
    def num_waiting(self) -> int:
        """Requests that were added and do not run."""

    @property
    def death(self) -> str | None:
        """Why the engine does no more work; None while it does."""

    @property
    def has_work(self) -> bool:
        """Whether step() has anything to do."""

    @property
    def is_stalled(self) -> bool:
        """Whether all work waits for something outside: step() is of use after a wake-up (on_wake) or another call."""

    def prepare_cost(self, request: RequestT) -> int:
        """Microseconds that prepare() takes, roughly."""

    def prepare(self, request: RequestT) -> PreparedT:
        """Check a request and build what belongs to it alone.

        Raises InvalidRequestError or ContextLengthError, naming the field, EngineDeadError.
        """

    def add(self, prepared: PreparedT) -> None:
        """Queue a request. Raises EngineDeadError, InvalidRequestError if its id is in use."""

    def abort(self, request_id: str) -> None:
        """End a request now; its last output comes with the next step. An unknown id is ignored."""

    def finish(self, request_id: str, index: int) -> None:
        """End one part of a request as if it were complete. Ignored where there is no such part, or none to end."""

    def abort_all(self) -> list[OutputT]:
        """End all requests now; their last outputs."""

    def step(self) -> list[OutputT]:
        """Compute one step; what it brought, and the last outputs of requests that ended without one.

        After a fatal error `death` gives the reason, and the last outputs of all requests come at once.
        """

    def failure(self, request_id: str, error: Exception) -> OutputT:
        """The last output of a request that the engine could not end itself."""

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from any thread, when what a stalled engine waits for has come. Before the first step."""

    def snapshot(self) -> EngineSnapshot:
        """What the engine is doing. Any thread may call it once the engine is closed."""

    def check_integrity(self) -> None:
        """Assert that the engine's records add up. For tests and debug runs."""

    def close(self) -> None:
        """Free everything. Idempotent."""
