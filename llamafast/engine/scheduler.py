"""Scheduler: continuous batching, admission and preemption."""

from __future__ import annotations

from collections import abc

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.context_shift import ContextShift
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.live_requests import LiveRequests
from llamafast.engine.media_supply import MediaSupply
from llamafast.engine.metrics import EngineStats
from llamafast.engine.plan import StepPlan
from llamafast.engine.planner import StepPlanner
from llamafast.engine.sequence import RequestState, Sequence
from llamafast.engine.step_update import LogprobsOf, StepUpdate
from llamafast.engine.waiting_queue import WaitingQueue
from llamafast.request import FinishReason, RequestOutput, SequenceStatus


class Scheduler:
    """Decides which requests run. schedule() makes the plan of a step, update() takes its tokens.

    A request is admitted when a sequence id and the cells for its prompt are free: by priority, then in order of
    arrival. The planner chooses the rows of a step from the admitted ones. A step that fails between schedule() and
    update() changes nothing.
    """

    def __init__(
        self,
        cache: PrefixCache,
        planner: StepPlanner,
        stats: EngineStats,
        *,
        n_seq_max: int,
        context_shift: ContextShift | None = None,
    ) -> None:
        self.cache = cache
        self.planner = planner
        self.stats = stats
        self.n_seq_max = n_seq_max
        self.context_shift = context_shift
        self.waiting = WaitingQueue(cache, stats)
        self.live = LiveRequests(cache, planner, self.waiting, stats, n_seq_max=n_seq_max)
        self._update = StepUpdate(cache, planner, self.live, stats, n_seq_max=n_seq_max)

    @property
    def requests(self) -> abc.Mapping[str, RequestState]:
        """The requests that have not ended, by id."""
        return self.live.by_id

    @property
    def running(self) -> abc.Sequence[Sequence]:
        """The sequences that generate, by sequence id."""
        return self.planner.running

    @property
    def prefilling(self) -> abc.Sequence[Sequence]:
        """The prompts that are being computed, in order of service."""
        return self.planner.prefilling

    @property
    def has_work(self) -> bool:
        """Whether a step or take_instant() can return outputs."""
        return bool(self.planner.num_active or self.waiting or self.live.has_instant)

    @property
    def num_active(self) -> int:
        """Number of sequences that hold a sequence id."""
        return self.planner.num_active

    def attach_disk(self, disk: DiskPrefixes) -> None:
        """Load prefixes from the disk, and save those of finished sequences. Call it before the first request."""
        self.waiting.attach_disk(disk)
        self.live.attach_disk(disk)

    def attach_media(self, media: MediaSupply, *, max_whole_rows: int) -> None:
        """Take prompts with media. max_whole_rows: of a media chunk in one pass. Before the first request."""
        self.planner.attach_media(media, max_whole_rows=max_whole_rows)

    def add(self, state: RequestState) -> None:
        """Queue a request from prepare_request."""
        self.live.add(state)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT, error: Exception | None = None) -> None:
        """End a request in any state. The next step returns its last outputs. An unknown id is ignored.

        Its computed prefix is parked for reuse, unless there was an error: a client that stops a long answer often
        continues that conversation.
        """
        self.live.abort(request_id, reason, error)

    def drop(self, request_ids: abc.Set[str]) -> None:
        """End requests without an output. Finished ones are ignored."""
        for request_id in request_ids:
            self.abort(request_id)
        self.live.forget_instant(request_ids)

    def finish(self, request_id: str, index: int) -> None:
        """End one choice as a stop string would. The next step returns its last output. Other choices continue.

        A choice without a token is ignored, because other choices may wait for its prompt.
        """
        self.live.finish(request_id, index)

    def fail(self, state: RequestState, error: BaseException) -> None:
        """End all choices of a request after its work raised `error`. Other requests continue."""
        self.live.note_failure(state, error)
        self.live.end_failed()

    def take_instant(self) -> list[RequestOutput]:
        """Return the outputs of requests that ended without a step, and forget them."""
        return self.live.take_instant()

    def schedule(self) -> StepPlan | None:
        """Admit the requests that fit, and plan the next step; None if there is nothing to compute."""
        if self.context_shift is not None and self._update.has_full:
            self._shift_full(self.context_shift)
        if self.waiting and not (self.waiting.is_closed and self.planner.num_active):
            self._admit()
        media = self.planner.media
        for sequence, error in media.refresh(self.planner.prefilling) if media is not None else ():
            self.live.note_failure(sequence.state, error)
        self.live.end_failed()
        return self.planner.plan()

    def update(self, plan: StepPlan, runs: list[list[int]], logprobs: LogprobsOf) -> list[RequestOutput]:
        """Take the tokens of a step: append, detokenize, match stops, finish, free. runs[i]: tokens of draw i."""
        return self._update.take(plan, runs, logprobs)

    def relieve(self) -> None:
        """Make room after a decode without free cells: evict parked prefixes, or preempt the last one by rank.

        If only one sequence is active, it ends, because no other sequence can free cells for it.
        """
        if self.cache.give_way(self.planner.num_rows):
            return
        active = [*self.prefilling, *self.running]
        last = max(active, key=lambda sequence: sequence.rank)
        if len(active) > 1:
            self.stats.preemptions += 1
            self.live.requeue(last)
            self.waiting.close()
            return
        for sequence in (last, *last.forks):
            self.live.stop(sequence, FinishReason.LENGTH)

    def count_active(self) -> None:
        """Set the gauges of the stats."""
        stats, cache = self.stats, self.cache
        stats.num_running = self.planner.num_active
        stats.num_waiting = len(self.waiting)
        stats.num_cells = cache.num_cells
        stats.prefix_evictions = cache.num_evicted

    def check_integrity(self) -> None:
        """Assert that lists, sequence ids and cells are consistent. For tests and debug runs."""
        self.live.check_integrity()

    def _admit(self) -> None:
        planner = self.planner
        num_ids = self.n_seq_max - planner.num_active - planner.num_reserved
        admitted, failed = self.waiting.admit(num_ids, planner.num_promised)
        for sequence, error in failed:
            self.live.note_failure(sequence.state, error)
        for sequence in admitted:
            sequence.status = SequenceStatus.PREFILLING
            planner.enter(sequence)
        self.count_active()

    def _shift_full(self, context_shift: ContextShift) -> None:
        """Drop old tokens of the sequences that have no room for their next token."""
        for sequence in self._update.take_full():
            if sequence.status is SequenceStatus.FINISHED:
                continue
            self.stats.context_shifts += 1
            try:
                if not context_shift.drop(sequence) and sequence.status is SequenceStatus.RUNNING:
                    self.live.requeue(sequence)
            except BaseException as error:
                self.live.note_failure(sequence.state, error)
