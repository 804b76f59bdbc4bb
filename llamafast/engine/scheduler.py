"""All requests from arrival to end: continuous batching, admission and preemption."""

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
    """Decides which requests compute. schedule() makes a plan, update() takes what it brought.

    A request is admitted when a sequence id and the cells for its prompt are free: by priority, then first come, first
    served. The planner decides what a step takes of the admitted ones. A step that fails between schedule() and
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
        """The prompts that are being computed; the one that is served first comes first."""
        return self.planner.prefilling

    @property
    def has_work(self) -> bool:
        """Whether a step or take_instant() would bring something."""
        return bool(self.planner.num_active or self.waiting or self.live.has_instant)

    @property
    def num_active(self) -> int:
        """Sequences that hold a sequence id."""
        return self.planner.num_active

    def attach_disk(self, disk: DiskPrefixes) -> None:
        """Load prefixes from the disk for prompts that wait, and save those that leave. Before the first request."""
        self.waiting.attach_disk(disk)
        self.live.attach_disk(disk)

    def attach_media(self, media: MediaSupply, *, max_whole_rows: int) -> None:
        """Take prompts with media. max_whole_rows: of a media chunk in one pass. Before the first request."""
        self.planner.attach_media(media, max_whole_rows=max_whole_rows)

    def add(self, state: RequestState) -> None:
        """Queue a request that prepare_request made ready."""
        self.live.add(state)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT, error: Exception | None = None) -> None:
        """End a request wherever it is; its last outputs come with the next step. An unknown id is ignored.

        What it has computed stays for whoever begins alike, unless there was an error: who stops a long answer goes on
        with that conversation.
        """
        self.live.abort(request_id, reason, error)

    def drop(self, request_ids: abc.Set[str]) -> None:
        """End requests of which nobody wants to hear any more. Those that have ended are ignored."""
        for request_id in request_ids:
            self.abort(request_id)
        self.live.forget_instant(request_ids)

    def finish(self, request_id: str, index: int) -> None:
        """End one choice as if it had come to a stop; its last output comes with the next step. Others go on.

        Without a token there was no stop, and others may wait for this one's prompt: ignored.
        """
        self.live.finish(request_id, index)

    def fail(self, state: RequestState, error: BaseException) -> None:
        """End a request whose own work raised `error`, in all its choices; the others go on."""
        self.live.note_failure(state, error)
        self.live.end_failed()

    def take_instant(self) -> list[RequestOutput]:
        """Outputs of requests that ended without a step, each once."""
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
        """Take the tokens of a plan: append, detokenize, match stops, finish, free. runs[i]: those of draw i."""
        return self._update.take(plan, runs, logprobs)

    def relieve(self) -> None:
        """Make room after a step that found none: evict parked prefixes, else preempt the youngest of the least urgent.

        The only sequence left ends here: no one else's cells can help it.
        """
        if self.cache.give_way(self.planner.num_rows):
            return
        active = [*self.prefilling, *self.running]
        youngest = max(active, key=lambda sequence: sequence.rank)
        if len(active) > 1:
            self.stats.preemptions += 1
            self.live.requeue(youngest)
            self.waiting.close()
            return
        for sequence in (youngest, *youngest.forks):
            self.live.stop(sequence, FinishReason.LENGTH)

    def count_active(self) -> None:
        """Set the gauges of the stats."""
        stats, cache = self.stats, self.cache
        stats.num_running = self.planner.num_active
        stats.num_waiting = len(self.waiting)
        stats.num_cells = cache.num_cells
        stats.prefix_evictions = cache.num_evicted

    def check_integrity(self) -> None:
        """Assert that lists, sequence ids and cells add up. For tests and debug runs."""
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
        """Drop old tokens of the sequences that have no room for their next one."""
        for sequence in self._update.take_full():
            if sequence.status is SequenceStatus.FINISHED:
                continue
            self.stats.context_shifts += 1
            try:
                if not context_shift.drop(sequence) and sequence.status is SequenceStatus.RUNNING:
                    self.live.requeue(sequence)
            except BaseException as error:
                self.live.note_failure(sequence.state, error)
