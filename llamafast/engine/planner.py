"""What the next step computes: a row of each running sequence, and how much of which prompt."""

from __future__ import annotations

import time
from bisect import insort

from llamafast._core import Batch
from llamafast._sampling import Sampler
from llamafast.engine import packing
from llamafast.engine.pacing import StepPacer
from llamafast.engine.packing import SchedulerOutput, equal_chunks, ordered_chunks
from llamafast.engine.sequence import Sequence
from llamafast.grammars.constraint import Constraint

# Steps of equal prompt chunks that may go by without the first prompt.
_MAX_PASSED = 2


class StepPlanner:
    """Fills the batch from the scheduler's lists, which it reads and may reorder; planning changes no sequence.

    A step takes one token of each running sequence; what the pacer allows beside them goes to the prompts in the order
    in which they are due. Memories that want ubatches of equal length (`equal_lengths`) get steps of one kind, in turn:
    decode rows, or equal prompt chunks.
    """

    def __init__(self, batch: Batch, *, n_outputs_max: int, pacer: StepPacer, equal_lengths: bool) -> None:
        self.batch = batch
        self.n_outputs_max = n_outputs_max
        self.pacer = pacer
        self.equal_lengths = equal_lengths
        self.running: list[Sequence] = []  # by sequence id
        self.prefilling: list[Sequence] = []  # who is served first, first
        self.num_forced = 0  # tokens appended without drawing whose KV is not computed, at most
        self.clock = time.monotonic
        self._num_computed = 0  # prompt tokens of all steps
        self._started_s = 0.0  # when the step was planned
        self._decode_turn = False
        self._rows: list[int] = []
        self._samplers: list[Sampler] = []  # of the running ones; empty: to be built
        self._constraints: list[tuple[int, Constraint]] = []  # of the running ones

    def running_changed(self) -> None:
        """To be called after each change of `running`."""
        self._samplers = []

    def plan(self) -> SchedulerOutput | None:
        """Fill the batch with the next step; None if there is nothing to compute."""
        running, prefilling = self.running, self.prefilling
        self._started_s = self.clock()
        self.batch.clear()
        if not prefilling:
            return self._decodes() if running else None
        remaining = packing.remaining_tokens(prefilling, self.n_outputs_max - len(running))
        room = self.batch.n_tokens_max
        num_decoding = len(running) + self.num_forced
        budget = min(room, self.pacer.budget(num_decoding, len(prefilling))) if running else room
        if not self.equal_lengths:
            if running and self.pacer.must_see_decode(num_decoding):
                return self._decodes()
            return self._add_chunks(self._decodes(), ordered_chunks(remaining, min(budget, room - num_decoding)))
        self._decode_turn = bool(running) and not self._decode_turn
        if not self._decode_turn:
            chunks = equal_chunks(remaining, budget, prefilling[0].num_passed >= _MAX_PASSED)
            return self._add_chunks(SchedulerOutput([], [], []), chunks)
        # One token is as long as a decode row.
        return self._add_chunks(self._decodes(), [int(num_tokens == 1) for num_tokens in remaining])

    def enter(self, sequence: Sequence) -> None:
        """Add a prompt. It is due when the prompts have got as many tokens as it needs, from now on.

        So the one with the least left goes first, and those that wait gain on later ones token by token: whoever comes
        after a prompt's worth of tokens can no longer overtake it. The request's priority comes before all that.
        """
        sequence.due = self._num_computed + sequence.num_remaining
        insort(self.prefilling, sequence, key=lambda other: (other.state.request.priority, other.due))

    def done(self, plan: SchedulerOutput) -> None:
        """After a step, before its tokens are taken: learn from it."""
        ms = (self.clock() - self._started_s) * 1000
        num_tokens = sum(n for _, n in plan.chunks)
        num_rows = self.batch.num_tokens - num_tokens
        self._num_computed += num_tokens
        if num_tokens and self.running:
            self.pacer.note_prompts(num_tokens, ms, num_rows)
        elif num_rows:
            self.pacer.note_decode(num_rows, ms)
        if num_tokens and not num_rows:
            first = self.prefilling[0]
            first.num_passed = 0 if any(sequence is first for sequence, _ in plan.chunks) else first.num_passed + 1

    def forced_bounds(self, num_others: int) -> tuple[int, int]:
        """How many forced tokens, (least, most), a sequence may append; num_others rows are for other sequences."""
        room = self.batch.n_tokens_max - num_others - self.num_forced
        return packing.forced_bounds(len(self.running), room, self.equal_lengths)

    def _decodes(self) -> SchedulerOutput:
        running = self.running
        if not self._samplers:
            self._samplers = [sequence.sampler for sequence in running]
            self._constraints = packing.numbered(sequence.constraint for sequence in running)
            self._rows = list(range(len(running)))
        plan = SchedulerOutput(running, self._rows, self._samplers)
        plan.constraints = self._constraints
        if self.num_forced:
            plan.rows = [packing.extend(self.batch, sequence, sequence.num_remaining) for sequence in running]
            return plan
        add = self.batch.add
        for sequence in running:
            slot = sequence.slot
            add(sequence.last_token, slot.length + sequence.pos_offset, slot.seq_id)
        return plan

    def _add_chunks(self, plan: SchedulerOutput, lengths: list[int]) -> SchedulerOutput:
        """Add lengths[i] tokens of each prompt to a step, shape (len(self.prefilling),)."""
        plan.chunks = [(sequence, n) for sequence, n in zip(self.prefilling, lengths, strict=True) if n]
        # Ascending sequence ids: only so can sequences with a stream each share a ubatch.
        plan.chunks.sort(key=lambda chunk: chunk[0].slot.seq_id)
        rows, samplers = list(plan.rows), list(plan.samplers)
        drawing: list[Sequence] = []
        for sequence, num_tokens in plan.chunks:
            start = sequence.slot.length
            row = packing.extend(self.batch, sequence, num_tokens)
            if sequence.state.scores is not None:
                plan.num_asked += sequence.state.scores.ask(self.batch, row + 1 - num_tokens, start, start + num_tokens)
            if start + num_tokens == len(sequence.token_ids):
                plan.prefilled.append(sequence)
                drawing += [sequence, *sequence.forks]
                rows += [row] * (1 + len(sequence.forks))
        plan.constraints = plan.constraints + packing.numbered((first.constraint for first in drawing), len(samplers))
        plan.rows, plan.samplers = rows, samplers + [sequence.sampler for sequence in drawing]
        return plan
