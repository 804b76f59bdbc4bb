"""All requests from arrival to end: continuous batching, admission, preemption, and what a step brought."""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections.abc import Callable, Set
from contextlib import suppress

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.context_shift import ContextShift
from llamafast.engine.metrics import EngineStats
from llamafast.engine.packing import SchedulerOutput
from llamafast.engine.planner import StepPlanner
from llamafast.engine.sequence import NO_SLOT, Logprobs, RequestState, Sequence
from llamafast.engine.waiting_queue import WaitingQueue
from llamafast.errors import LlamaFastError, request_failure
from llamafast.request import FinishReason, RequestOutput, SequenceStatus

_log = logging.getLogger(__name__)


class Scheduler:
    """Owns all requests. schedule() fills the batch, update() takes the tokens; a failed step between changes nothing.

    By priority, then first come, first served: a request is admitted when a sequence id and the cells for its prompt
    are there. What a step takes of those admitted is up to the planner.
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
        self.batch = planner.batch
        self.stats = stats
        self.n_seq_max = n_seq_max
        self.context_shift = context_shift
        self.requests: dict[str, RequestState] = {}
        self.waiting = WaitingQueue(cache, stats)
        self.prefilling = planner.prefilling
        self.running = planner.running
        self._full: list[Sequence] = []  # have no room for their next token
        self._instant: list[RequestOutput] = []  # of requests that ended without a step
        self._failed: dict[str, tuple[RequestState, LlamaFastError]] = {}  # whose own work raised an exception
        self._num_added = 0
        self._num_reserved = 0  # sequence ids promised to the forks of prefilling sequences
        self._last_decode_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.prefilling or self.waiting or self._instant)

    @property
    def num_active(self) -> int:
        """Sequences that hold a sequence id."""
        return len(self.running) + len(self.prefilling)

    def add(self, state: RequestState) -> None:
        """Queue a request that prepare_request made ready."""
        self._num_added += 1
        state.number = self._num_added
        self.requests[state.request.request_id] = state
        self.stats.add_request(len(state.request.prompt_token_ids), state.request.params.n)
        first = state.sequences[0]
        if first.is_prompt_only and not first.is_scored:
            for sequence in state.sequences:
                self._stop(sequence, FinishReason.LENGTH)
            return
        first.forks = state.sequences[1:]
        self.waiting.put(first)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT, error: Exception | None = None) -> None:
        """End a request wherever it is; its last outputs come with the next step. An unknown id is ignored.

        What it has computed stays for whoever begins alike, unless there was an error: who stops a long answer goes on
        with that conversation.
        """
        state = self.requests.get(request_id)
        for sequence in state.sequences if state is not None else ():
            if sequence.status is not SequenceStatus.FINISHED:
                self._stop(sequence, reason, error, keep=error is None)

    def drop(self, request_ids: Set[str]) -> None:
        """End requests of which nobody wants to hear any more. Those that have ended are ignored."""
        for request_id in request_ids:
            self.abort(request_id)
        self._instant = [output for output in self._instant if output.request_id not in request_ids]

    def finish(self, request_id: str, index: int) -> None:
        """End one choice as if it had come to a stop; its last output comes with the next step. Others go on.

        Without a token there was no stop, and others may wait for this one's prompt: ignored.
        """
        state = self.requests.get(request_id)
        for sequence in state.sequences if state is not None else ():
            is_open = sequence.status is not SequenceStatus.FINISHED and sequence.num_generated > 0
            if sequence.index == index and is_open:
                self._stop(sequence, FinishReason.STOP, keep=True)

    def take_instant(self) -> list[RequestOutput]:
        """Outputs of requests that ended without a step, each once."""
        outputs, self._instant = self._instant, []
        return outputs

    def schedule(self) -> SchedulerOutput | None:
        """Admit what fits and fill the batch with the next step; None if there is nothing to compute."""
        if self._full and self.context_shift is not None:
            self._shift_full(self.context_shift)
        if self.waiting and not (self.waiting.is_closed and self.num_active):
            self._admit()
        self._end_failed(self._instant)
        return self.planner.plan()

    def update(
        self, plan: SchedulerOutput, token_ids: list[int], logprobs: Callable[[int], Logprobs]
    ) -> list[RequestOutput]:
        """Take the sampled tokens of a plan, one per sampler: append, detokenize, match stops, finish, free."""
        now = time.monotonic()
        self.planner.done(plan)
        self.cache.note_decode()
        outputs: list[RequestOutput] = []
        ended: list[tuple[Sequence, RequestOutput]] = []
        num_on_time, last_decode_s = 0, self._last_decode_s
        num_behind = self.planner.num_forced = 0 if plan.decodes else self.planner.num_forced
        for i, sequence in enumerate(plan.decodes):
            token_id = token_ids[i]
            sequence.slot.length = num_tokens = len(sequence.token_ids)
            if sequence.last_s == last_decode_s:
                num_on_time += 1
            else:
                self.stats.inter_token_latency.observe(now - sequence.last_s)
            sequence.last_s = now
            try:
                if sequence.is_plain and token_id not in sequence.stop_ids and num_tokens + 1 < sequence.max_len:
                    sequence.append(token_id)
                    text = sequence.detokenizer.add(token_id)
                    outputs.append(RequestOutput(sequence.request_id, sequence.index, text, [token_id]))
                else:
                    self._advance(sequence, token_id, i, logprobs, outputs, ended)
            except BaseException as error:
                self._note_failure(sequence.state, error)
        if num_on_time:
            self.stats.inter_token_latency.observe(now - last_decode_s, num_on_time)
        if plan.decodes:
            self._last_decode_s = now
        if plan.chunks:
            self._update_prefills(plan, token_ids, logprobs, now, outputs, ended)
        self.cache.num_cells += self.batch.num_tokens
        num_generated = len(token_ids) + self.planner.num_forced - num_behind
        self.cache.num_generated += num_generated
        for sequence, output in ended:
            self._leave(sequence)
            self._release(sequence, keep=True)
            self._end(sequence, output, outputs)
        self._end_failed(outputs)
        self.cache.drop_idle()
        self.stats.add_step(now, self.batch.num_tokens, num_generated)
        return outputs

    def count_active(self) -> None:
        """Set the gauges of the stats."""
        stats, cache = self.stats, self.cache
        stats.num_running = len(self.running) + len(self.prefilling)
        stats.num_waiting = len(self.waiting)
        stats.num_cells = cache.num_cells
        stats.prefix_evictions = cache.num_evicted

    def relieve(self) -> None:
        """Make room after a step that found none: evict parked prefixes, else preempt the youngest of the least urgent.

        The only sequence left ends here: no one else's cells can help it.
        """
        if self.cache.give_way(self.batch.num_tokens):
            return
        active = [*self.prefilling, *self.running]
        youngest = max(active, key=lambda sequence: sequence.rank)
        if len(active) > 1:
            self.stats.preemptions += 1
            self._requeue(youngest)
            self.waiting.is_closed = True
            return
        for sequence in (youngest, *youngest.forks):
            self._stop(sequence, FinishReason.LENGTH)

    def rewind(self, plan: SchedulerOutput) -> None:
        """After a cancelled step: take back what it computed; sequences that cannot be cut start anew."""
        sequences = [*plan.decodes, *(sequence for sequence, _ in plan.chunks)]
        for sequence in sorted(sequences, key=lambda sequence: sequence.rank, reverse=True):
            if not self.cache.cut(sequence.slot):
                self._requeue(sequence)

    def fail(self, state: RequestState, error: BaseException) -> None:
        """End a request whose own work raised `error`, in all its choices; the others go on."""
        self._note_failure(state, error)
        self._end_failed(self._instant)

    def _note_failure(self, state: RequestState, error: BaseException) -> None:
        self._failed.setdefault(state.request.request_id, (state, request_failure(error)))
        if not isinstance(error, LlamaFastError):
            _log.error("request %s failed", state.request.request_id, exc_info=error)

    def _end_failed(self, outputs: list[RequestOutput]) -> None:
        """End what _note_failure noted, without touching a text. Raises AssertionError if others have suffered too."""
        failed, self._failed = self._failed, {}
        for state, error in failed.values():
            for sequence in state.sequences:
                if sequence.status is SequenceStatus.FINISHED and sequence.slot is NO_SLOT:
                    continue
                ends = FinishReason.ERROR
                output = RequestOutput(sequence.request_id, sequence.index, "", [], None, ends, error=error)
                sequence.emit(output, outputs)
                self._leave(sequence)
                self._release(sequence, keep=False)
                self._end(sequence, output, outputs)
        if failed:
            self.check_integrity()

    def _admit(self) -> None:
        num_ids = self.n_seq_max - self.num_active - self._num_reserved
        num_promised = len(self.running) + sum(sequence.num_remaining for sequence in self.prefilling)
        admitted, failed = self.waiting.admit(num_ids, num_promised)
        for sequence, error in failed:
            self._note_failure(sequence.state, error)
        for sequence in admitted:
            sequence.status = SequenceStatus.PREFILLING
            self.planner.enter(sequence)
            self._num_reserved += len(sequence.forks)
        self.count_active()

    def _update_prefills(
        self,
        plan: SchedulerOutput,
        token_ids: list[int],
        logprobs: Callable[[int], Logprobs],
        now: float,
        outputs: list[RequestOutput],
        ended: list[tuple[Sequence, RequestOutput]],
    ) -> None:
        scores = iter(plan.scores)
        for sequence, num_tokens in plan.chunks:
            self.cache.advance(sequence.slot, num_tokens, sequence.token_ids)
            self.stats.computed_prompt_tokens += num_tokens
            if sequence.state.scores is not None:
                sequence.state.scores.take(scores, sequence.slot.length)
            if self.waiting.disk is not None:
                self.waiting.disk.save_checkpoint(sequence)
            if sequence.is_prompt_only and not sequence.num_remaining:
                for done in (sequence, *sequence.forks):
                    self._stop(done, FinishReason.LENGTH)
        i = len(plan.decodes)
        for first in plan.prefilled:
            forks, first.forks = first.forks, []
            try:
                self._leave(first)
                self._num_reserved -= len(forks)
                self._start_output(first, now)
                for k, sequence in enumerate((first, *forks), i):
                    sequence.last_s = now
                    num_ended = len(ended)
                    self._advance(sequence, token_ids[k], k, logprobs, outputs, ended)
                    if len(ended) == num_ended:
                        self._run(sequence, first)
            except BaseException as error:
                self._note_failure(first.state, error)
            i += 1 + len(forks)

    def _start_output(self, first: Sequence, now: float) -> None:
        """Book a prompt that has been computed."""
        state = first.state
        self.cache.register(first.slot, first.token_ids)
        if not state.first_token_s:
            state.first_token_s = now
            self.stats.add_first_token(now, state.request.arrival_s, state.scheduled_s)

    def _run(self, sequence: Sequence, source: Sequence) -> None:
        if sequence is not source:
            sequence.slot = self.cache.fork(source.slot)
        sequence.status = SequenceStatus.RUNNING
        self.planner.running_changed()
        insort(self.running, sequence, key=lambda other: other.slot.seq_id)

    def _advance(
        self,
        sequence: Sequence,
        token_id: int,
        i: int,
        logprobs: Callable[[int], Logprobs],
        outputs: list[RequestOutput],
        ended: list[tuple[Sequence, RequestOutput]],
    ) -> None:
        if token_id < 0:
            output = sequence.finish(FinishReason.ERROR, sequence.draw_error)
        else:
            sequence.append(token_id)
            output = sequence.advance(token_id, logprobs(i) if sequence.sampler.num_logprobs >= 0 else None)
            if sequence.constraint is not None and output.finish_reason is None:
                least, most = self.planner.forced_bounds(self.n_seq_max)
                most = min(most, sequence.max_len - len(sequence.token_ids))
                self.planner.num_forced += sequence.force(output, least, most)
            if output.finish_reason is None and len(sequence.token_ids) >= sequence.max_len:
                self._full.append(sequence)
        sequence.emit(output, outputs)
        if output.finish_reason is not None:
            ended.append((sequence, output))

    def _shift_full(self, context_shift: ContextShift) -> None:
        full, self._full = self._full, []
        for sequence in full:
            if sequence.status is SequenceStatus.FINISHED:
                continue
            self.stats.context_shifts += 1
            try:
                if not context_shift.drop(sequence) and sequence.status is SequenceStatus.RUNNING:
                    self._requeue(sequence)
            except BaseException as error:
                self._note_failure(sequence.state, error)

    def _leave(self, sequence: Sequence) -> None:
        """Out of whatever list it stands in."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self.planner.running_changed()
        elif sequence.status is SequenceStatus.PREFILLING:
            self.prefilling.remove(sequence)
            self._num_reserved -= len(sequence.forks)
        elif sequence.status is SequenceStatus.WAITING:
            with suppress(ValueError):  # forks wait in no list
                self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    def _release(self, sequence: Sequence, keep: bool) -> None:
        slot, sequence.slot = sequence.slot, NO_SLOT
        if slot is NO_SLOT:
            return
        if keep:
            if self.waiting.disk is not None and slot.num_unmoved is None:
                self.waiting.disk.save(sequence, slot)
            self.cache.park(slot, sequence.token_ids)
        else:
            self.cache.free(slot)
        self.waiting.is_closed = False

    def _requeue(self, sequence: Sequence) -> None:
        """Back to its place in the queue without its cells. Text, counts and random numbers stay as they are."""
        self._leave(sequence)
        self.cache.free(sequence.slot)
        sequence.slot = NO_SLOT
        sequence.status = SequenceStatus.WAITING
        self.waiting.put(sequence)

    def _stop(
        self, sequence: Sequence, reason: FinishReason, error: Exception | None = None, *, keep: bool = False
    ) -> None:
        """End a sequence without a token; its output comes with the next step. keep: its cells may serve others."""
        output = sequence.finish(reason, error)
        sequence.emit(output, self._instant)
        self._leave(sequence)
        self._release(sequence, keep=keep)
        self._end(sequence, output, self._instant)

    def _end(self, sequence: Sequence, output: RequestOutput, outputs: list[RequestOutput]) -> None:
        """Book a sequence that left, whose last output is given; the request's last output carries the usage."""
        state = sequence.state
        state.completion_tokens += sequence.num_generated
        state.num_unfinished -= 1
        if state.num_unfinished:
            return
        self.requests.pop(sequence.request_id, None)  # not there if it failed before it was queued
        if state.ranked:
            best = state.best()
            outputs += best
            output = best[-1]
        assert output.finish_reason is not None
        output.usage = state.usage
        state.sequences = []  # without this cycle no garbage is left to collect
        times = (state.request.arrival_s, state.first_token_s)
        self.stats.add_end(output.finish_reason.value, state.completion_tokens, *times)

    def check_integrity(self) -> None:
        """Assert that lists, sequence ids and cells add up. For tests and debug runs."""
        active = [*self.running, *self.prefilling]
        ids = [sequence.slot.seq_id for sequence in active]
        assert len(set(ids)) == len(ids) == self.cache.n_slots - self.cache.num_free - self.cache.num_parked
        assert self.num_active + self._num_reserved <= self.n_seq_max, "more sequences than promised"
        assert ids[: len(self.running)] == sorted(ids[: len(self.running)]), "running is out of order"
        num_behind = sum(sequence.num_remaining - 1 for sequence in self.running)
        assert 0 <= num_behind <= self.planner.num_forced, "a running sequence lags behind"
        assert self._num_reserved == sum(len(sequence.forks) for sequence in self.prefilling)
        listed = {id(sequence.state) for sequence in (*active, *self.waiting)}
        assert listed == {id(state) for state in self.requests.values()}, "a request is lost"
        self.cache.check_integrity()
