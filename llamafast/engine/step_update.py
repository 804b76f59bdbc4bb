"""StepUpdate: takes the tokens of a step, makes the outputs, and ends the finished sequences."""

from __future__ import annotations

import time
from collections.abc import Callable

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.live_requests import LiveRequests
from llamafast.engine.metrics import EngineStats
from llamafast.engine.plan import StepPlan
from llamafast.engine.planner import StepPlanner
from llamafast.engine.sequence import Logprobs, Sequence
from llamafast.request import FinishReason, RequestOutput, SequenceStatus

LogprobsOf = Callable[[int, int], Logprobs]
"""(number of the draw, index in its run) -> the logprobs of that token"""


class StepUpdate:
    """Appends the tokens of a step to their sequences, in one loop, and makes the outputs.

    A run is the list of tokens that one draw accepted. n_seq_max: maximum number of sequences that run at once.
    """

    def __init__(
        self, cache: PrefixCache, planner: StepPlanner, live: LiveRequests, stats: EngineStats, *, n_seq_max: int
    ) -> None:
        self._cache = cache
        self._planner = planner
        self._live = live
        self._stats = stats
        self._n_seq_max = n_seq_max
        self._full: list[Sequence] = []  # sequences without room for their next token
        self._last_decode_s = 0.0
        # State of the current step.
        self._now = 0.0
        self._outputs: list[RequestOutput] = []
        self._ended: list[tuple[Sequence, RequestOutput]] = []
        self._num_extra = 0  # tokens after the first of each run

    @property
    def has_full(self) -> bool:
        """Whether take_full() has sequences."""
        return bool(self._full)

    def take_full(self) -> list[Sequence]:
        """Return the sequences that have no room for their next token, and forget them."""
        full, self._full = self._full, []
        return full

    def take(self, plan: StepPlan, runs: list[list[int]], logprobs: LogprobsOf) -> list[RequestOutput]:
        """Take the tokens of a step: append, detokenize, match stops, finish, free. runs[i]: tokens of draw i."""
        planner, cache, live = self._planner, self._cache, self._live
        self._now = time.monotonic()
        outputs = self._outputs = []
        ended = self._ended = []
        self._num_extra = 0
        planner.done(plan)
        cache.note_decode(plan.slots, plan.counts)
        num_forced = planner.num_forced
        if plan.decodes:
            self._take_decodes(plan, runs, logprobs)
        if plan.chunks:
            self._take_chunks(plan)
        if plan.prefilled:
            self._take_first_tokens(plan, runs, logprobs)
        num_generated = len(runs) + self._num_extra + planner.num_forced - num_forced
        cache.note_generated(num_generated)
        for sequence, output in ended:
            live.end(sequence, output, outputs)
        live.end_failed(outputs)
        cache.drop_idle()
        self._stats.add_step(self._now, plan.batch.num_tokens, num_generated)
        return outputs

    def _take_decodes(self, plan: StepPlan, runs: list[list[int]], logprobs: LogprobsOf) -> None:
        outputs, now, last_decode_s = self._outputs, self._now, self._last_decode_s
        latency = self._stats.inter_token_latency
        has_drafts = bool(plan.drafts)  # without drafts each run has one token
        num_on_time = 0
        for i, sequence in enumerate(plan.decodes):
            run = runs[i]
            if sequence.last_s == last_decode_s:
                num_on_time += 1
            else:
                latency.observe(now - sequence.last_s)
            sequence.last_s = now
            try:
                token_id = run[0]
                if (
                    sequence.is_plain
                    and token_id not in sequence.stop_ids
                    and len(sequence.token_ids) + 1 < sequence.max_len
                    and not has_drafts
                ):
                    sequence.append(token_id)
                    text = sequence.detokenizer.add(token_id)
                    outputs.append(RequestOutput(sequence.request_id, sequence.index, text, run))
                else:
                    self._take_run(sequence, run, i, logprobs)
            except BaseException as error:
                self._live.note_failure(sequence.state, error)
        if num_on_time:
            latency.observe(now - last_decode_s, num_on_time)
        self._last_decode_s = now

    def _take_chunks(self, plan: StepPlan) -> None:
        for sequence, num_tokens, last_row in plan.chunks:
            self._cache.advance(sequence.slot, num_tokens, sequence.token_ids)
            self._stats.computed_prompt_tokens += num_tokens
            if sequence.state.scores is not None:
                sequence.state.scores.take(plan.scores, sequence.slot.length, last_row)
            if self._live.disk is not None:
                self._live.disk.save_checkpoint(sequence)
            if sequence.is_prompt_only and not sequence.num_remaining:
                for done in (sequence, *sequence.forks):
                    self._live.stop(done, FinishReason.LENGTH)

    def _take_first_tokens(self, plan: StepPlan, runs: list[list[int]], logprobs: LogprobsOf) -> None:
        i = len(plan.decodes)  # the first draw of the prompt
        for first in plan.prefilled:
            num_draws = 1 + len(first.forks)
            try:
                self._end_prompt(first, runs, i, logprobs)
            except BaseException as error:
                self._live.note_failure(first.state, error)
            i += num_draws

    def _end_prompt(self, first: Sequence, runs: list[list[int]], i: int, logprobs: LogprobsOf) -> None:
        """End the computation of a prompt: it and its forks take their first tokens (draw i and following) and run."""
        self._live.leave(first)
        forks, first.forks = first.forks, []
        state = first.state
        self._cache.register(first.slot, first.token_ids)
        if not state.first_token_s:
            state.first_token_s = self._now
            self._stats.add_first_token(self._now, state.request.arrival_s, state.scheduled_s)
        for k, sequence in enumerate((first, *forks), i):
            sequence.last_s = self._now
            if not self._take_run(sequence, runs[k], k, logprobs):
                if sequence is not first:
                    sequence.slot = self._cache.fork(first.slot)
                sequence.status = SequenceStatus.RUNNING
                self._planner.start(sequence)

    def _take_run(self, sequence: Sequence, run: list[int], i: int, logprobs: LogprobsOf) -> bool:
        """Take the tokens of run i. Returns whether the sequence has ended. Tokens after its end leave the run."""
        for k, token_id in enumerate(run):
            if token_id < 0:
                output = sequence.finish(FinishReason.ERROR, sequence.draw_error)
            else:
                sequence.append(token_id)
                output = sequence.advance(token_id, logprobs(i, k) if sequence.sampler.num_logprobs >= 0 else None)
                if sequence.constraint is not None and output.finish_reason is None:
                    self._force(sequence, output)
                if output.finish_reason is None and len(sequence.token_ids) >= sequence.max_len:
                    self._full.append(sequence)
            sequence.emit(output, self._outputs)
            if output.finish_reason is not None:
                del run[k + 1 :]
                self._ended.append((sequence, output))
                break
        self._num_extra += len(run) - 1
        return output.finish_reason is not None

    def _force(self, sequence: Sequence, output: RequestOutput) -> None:
        """Append the forced tokens of the grammar. IN/OUT output: the output of the last token, which gets them."""
        least, most = self._planner.forced_bounds(self._n_seq_max)
        most = min(most, sequence.max_len - len(sequence.token_ids))
        self._planner.note_forced(sequence.force(output, least, most))
