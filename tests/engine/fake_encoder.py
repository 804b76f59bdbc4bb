"""A second kind of engine for tests: an encoder. Each of its requests gets one vector."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llamafast.engine.metrics import EngineStats
from llamafast.engine.snapshot import EngineSnapshot, EngineState, SequenceSnapshot
from llamafast.errors import EngineDeadError, InvalidRequestError
from llamafast.request import SequenceStatus


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    request_id: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The only output of a request: its vector, or the error."""

    request_id: str
    vector: tuple[float, ...] = ()
    error: Exception | None = None
    is_last: bool = True


class FakeEncoder:
    """Encodes n_seq_max whole inputs per step. The vector is (number of tokens, sum of token ids).

    step_hook: called at the beginning of each step.
    fault: the next step meets it; the encoder dies of a text, and raises an exception.
    """

    n_seq_max = 2
    is_stalled = False

    def __init__(self, step_hook: Callable[[], None] = lambda: None) -> None:
        self.stats = EngineStats()
        self.death: str | None = None
        self.fault: str | Exception | None = None
        self.steps: list[list[str]] = []
        self._hook = step_hook
        self._waiting: dict[str, EncodeRequest] = {}
        self._ended: list[Encoded] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._ended)

    def prepare_cost(self, request: EncodeRequest) -> int:
        return len(request.token_ids)

    def prepare(self, request: EncodeRequest) -> EncodeRequest:
        if self.death is not None:
            raise EngineDeadError(self.death)
        if not request.token_ids:
            raise InvalidRequestError("the input is empty", param="input")
        return request

    def add(self, prepared: EncodeRequest) -> None:
        self._waiting[prepared.request_id] = prepared

    def abort(self, request_id: str) -> None:
        if self._waiting.pop(request_id, None) is not None:
            self._ended.append(Encoded(request_id))

    def finish(self, request_id: str, index: int) -> None:
        """Ignored: a request has no choices."""

    def abort_all(self) -> list[Encoded]:
        for request_id in list(self._waiting):
            self.abort(request_id)
        outputs, self._ended = self._ended, []
        return outputs

    def step(self) -> list[Encoded]:
        self._hook()
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            self.death = self.fault
            outputs = [self.failure(request_id, EngineDeadError(self.fault)) for request_id in self._waiting]
            self._waiting = {}
            return outputs
        ids = list(self._waiting)[: self.n_seq_max]
        self.steps.append(ids)
        requests = [self._waiting.pop(request_id) for request_id in ids]
        outputs, self._ended = self._ended, []
        return outputs + [Encoded(r.request_id, (len(r.token_ids), sum(r.token_ids))) for r in requests]

    def failure(self, request_id: str, error: Exception) -> Encoded:
        return Encoded(request_id, error=error)

    def on_wake(self, wake: Callable[[], None]) -> None:
        """Ignored: the engine never stalls."""

    def snapshot(self) -> EngineSnapshot:
        if self.death is not None:
            return EngineSnapshot(EngineState.CLOSED, self.death)
        now, waiting = time.monotonic(), SequenceStatus.WAITING
        sequences = tuple(
            SequenceSnapshot(r.request_id, 0, waiting, len(r.token_ids), 0, 0, 0, 0, None, 0, now)
            for r in self._waiting.values()
        )
        state = EngineState.WORKING if self.has_work else EngineState.IDLE
        return EngineSnapshot(state, sequences=sequences, num_waiting=len(sequences))

    def check_integrity(self) -> None:
        assert all(request_id == request.request_id for request_id, request in self._waiting.items())

    def close(self) -> None:
        self.death = self.death or "it is closed"
