"""LiveRequests: the requests in the engine, from arrival to their last token, abort or failure."""

from __future__ import annotations

import logging
from collections.abc import Set
from contextlib import suppress

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.metrics import EngineStats
from llamafast.engine.planner import StepPlanner
from llamafast.engine.sequence import NO_SLOT, RequestState, Sequence
from llamafast.engine.waiting_queue import WaitingQueue
from llamafast.errors import LlamaFastError, request_failure
from llamafast.request import FinishReason, RequestOutput, SequenceStatus

_log = logging.getLogger(__name__)


class LiveRequests:
    """Owns the requests from arrival to end. When a sequence ends, its slot is released and it is counted.

    by_id: the requests that have not ended, by request id.
    disk: saves the prefixes of sequences that end; None without a disk cache.
    n_seq_max: maximum number of sequences that run at once.
    """

    def __init__(
        self, cache: PrefixCache, planner: StepPlanner, waiting: WaitingQueue, stats: EngineStats, *, n_seq_max: int
    ) -> None:
        self.by_id: dict[str, RequestState] = {}
        self.disk: DiskPrefixes | None = None
        self._cache = cache
        self._planner = planner
        self._waiting = waiting
        self._stats = stats
        self._n_seq_max = n_seq_max
        self._instant: list[RequestOutput] = []  # last outputs of sequences that ended without a token
        self._failed: dict[str, tuple[RequestState, LlamaFastError]] = {}  # requests whose work raised an exception
        self._num_added = 0

    @property
    def has_instant(self) -> bool:
        """Whether take_instant() has outputs."""
        return bool(self._instant)

    def attach_disk(self, disk: DiskPrefixes) -> None:
        """Save the prefixes of sequences that end from now on."""
        self.disk = disk

    def add(self, state: RequestState) -> None:
        """Number a request, and queue it if it has anything to compute."""
        self._num_added += 1
        state.number = self._num_added
        self.by_id[state.request.request_id] = state
        self._stats.add_request(len(state.request.prompt_token_ids), state.request.params.n)
        first = state.sequences[0]
        if first.is_prompt_only and not first.is_scored:
            for sequence in state.sequences:
                self.stop(sequence, FinishReason.LENGTH)
            return
        first.forks = state.sequences[1:]
        self._waiting.put(first)

    def abort(self, request_id: str, reason: FinishReason, error: Exception | None) -> None:
        """End a request; see Scheduler.abort."""
        state = self.by_id.get(request_id)
        for sequence in state.sequences if state is not None else ():
            if sequence.status is not SequenceStatus.FINISHED:
                self.stop(sequence, reason, error, keep=error is None)

    def finish(self, request_id: str, index: int) -> None:
        """End one choice as a stop string would; see Scheduler.finish."""
        state = self.by_id.get(request_id)
        for sequence in state.sequences if state is not None else ():
            is_open = sequence.status is not SequenceStatus.FINISHED and sequence.num_generated > 0
            if sequence.index == index and is_open:
                self.stop(sequence, FinishReason.STOP, keep=True)

    def take_instant(self) -> list[RequestOutput]:
        """Return the outputs of sequences that ended without a token, and forget them."""
        outputs, self._instant = self._instant, []
        return outputs

    def forget_instant(self, request_ids: Set[str]) -> None:
        """Drop the outputs of these requests that take_instant() has not returned yet."""
        self._instant = [output for output in self._instant if output.request_id not in request_ids]

    def stop(
        self, sequence: Sequence, reason: FinishReason, error: Exception | None = None, *, keep: bool = False
    ) -> None:
        """End a sequence without a token. The next step returns its output. keep: park its prefix for reuse."""
        output = sequence.finish(reason, error)
        sequence.emit(output, self._instant)
        self._remove(sequence, output, self._instant, keep=keep)

    def end(self, sequence: Sequence, output: RequestOutput, outputs: list[RequestOutput]) -> None:
        """End a sequence after its last token. output: its last one, which `outputs` contains. IN/OUT outputs."""
        self._remove(sequence, output, outputs, keep=True)

    def leave(self, sequence: Sequence) -> None:
        """Remove a sequence from the list that contains it."""
        if sequence.status is SequenceStatus.WAITING:
            with suppress(ValueError):  # a waiting fork is in no list
                self._waiting.remove(sequence)
        else:
            self._planner.leave(sequence)
        sequence.status = SequenceStatus.FINISHED

    def requeue(self, sequence: Sequence) -> None:
        """Put a sequence back into the queue and free its cells. Its text, counts and random state stay."""
        self.leave(sequence)
        self._cache.free(sequence.slot)
        sequence.slot = NO_SLOT
        sequence.status = SequenceStatus.WAITING
        self._waiting.put(sequence)

    def note_failure(self, state: RequestState, error: BaseException) -> None:
        """Note that the work for one request raised `error`. end_failed() ends the request."""
        self._failed.setdefault(state.request.request_id, (state, request_failure(error)))
        if not isinstance(error, LlamaFastError):
            _log.error("request %s failed", state.request.request_id, exc_info=error)

    def end_failed(self, outputs: list[RequestOutput] | None = None) -> None:
        """End the requests that note_failure() has noted, with no further text. IN/OUT outputs; None: the next step's.

        Raises AssertionError if the failure has damaged other requests.
        """
        if not self._failed:
            return
        outputs = self._instant if outputs is None else outputs
        failed, self._failed = self._failed, {}
        for state, error in failed.values():
            for sequence in state.sequences:
                if sequence.status is SequenceStatus.FINISHED and sequence.slot is NO_SLOT:
                    continue
                reason = FinishReason.ERROR
                output = RequestOutput(sequence.request_id, sequence.index, "", [], None, reason, error=error)
                sequence.emit(output, outputs)
                self._remove(sequence, output, outputs, keep=False)
        self.check_integrity()

    def check_integrity(self) -> None:
        """Assert that lists, sequence ids and cells are consistent. For tests and debug runs."""
        planner, cache = self._planner, self._cache
        active = [*planner.running, *planner.prefilling]
        ids = {sequence.slot.seq_id for sequence in active}
        assert len(ids) == len(active) == cache.n_slots - cache.num_free - cache.num_parked
        assert len(active) + planner.num_reserved <= self._n_seq_max, "more sequences than n_seq_max"
        planner.check_integrity()
        listed = {id(sequence.state) for sequence in (*active, *self._waiting)}
        assert listed == {id(state) for state in self.by_id.values()}, "a request is lost"
        cache.check_integrity()

    def _remove(self, sequence: Sequence, output: RequestOutput, outputs: list[RequestOutput], *, keep: bool) -> None:
        self.leave(sequence)
        self._release(sequence, keep=keep)
        self._count_end(sequence, output, outputs)

    def _release(self, sequence: Sequence, *, keep: bool) -> None:
        slot, sequence.slot = sequence.slot, NO_SLOT
        if slot is NO_SLOT:
            return
        if keep:
            if self.disk is not None and slot.num_unmoved is None:
                self.disk.save(sequence, slot)
            self._cache.park(slot, sequence.token_ids)
        else:
            self._cache.free(slot)
        self._waiting.reopen()

    def _count_end(self, sequence: Sequence, output: RequestOutput, outputs: list[RequestOutput]) -> None:
        """Count the end of a sequence with its last output. The last output of the request gets the usage."""
        state = sequence.state
        state.completion_tokens += sequence.num_generated
        state.num_unfinished -= 1
        if state.num_unfinished:
            return
        self.by_id.pop(sequence.request_id, None)  # a request that failed before it was queued is missing
        if state.ranked:
            best = state.best()
            outputs += best
            output = best[-1]
        assert output.finish_reason is not None
        output.usage = state.usage
        state.sequences = []  # breaks a reference cycle, so that the garbage collector has no work
        times = (state.request.arrival_s, state.first_token_s)
        self._stats.add_end(output.finish_reason.value, state.completion_tokens, *times)
