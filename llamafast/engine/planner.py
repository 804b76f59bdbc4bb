"""StepPlanner: plans the next step, and keeps the lists of running sequences and of prompts."""

from __future__ import annotations

import time
from bisect import insort
from collections import abc
from copy import copy
from functools import partial

from llamafast._core import Batch
from llamafast.engine import packing
from llamafast.engine.media_supply import MediaSupply
from llamafast.engine.pacing import StepPacer
from llamafast.engine.packing import equal_chunks, ordered_chunks, whole_chunks
from llamafast.engine.plan import Chunk, StepKind, StepPlan
from llamafast.engine.sequence import Sequence
from llamafast.request import SequenceStatus

# Steps of equal prompt chunks that may pass without the first prompt.
_MAX_PASSED = 2


class StepPlanner:
    """Owns the lists of running sequences and of prompts, and fills the batch. plan() does not change the lists.

    batch: the rows of text. media: the rows of media and their embeddings; None: the memory takes them as text.

    A step computes one token of each running sequence, and prompt tokens up to the pacer's limit. The prompts get them
    in their order of service (see enter). Memories that need ubatches of equal length (`equal_lengths`) alternate
    between two kinds of steps: decode rows, and equal prompt chunks.
    Rows of media never share a step with text. If both are due, the two kinds of steps alternate.
    """

    def __init__(self, batch: Batch, *, n_outputs_max: int, pacer: StepPacer, equal_lengths: bool) -> None:
        self.batch = batch
        self.n_outputs_max = n_outputs_max
        self.pacer = pacer
        self.equal_lengths = equal_lengths
        self.media: MediaSupply | None = None
        self.max_whole_rows = 0  # of media chunks that are computed in one pass
        self.clock = time.monotonic
        self.num_reserved = 0  # sequence ids promised to the forks of prompts
        self.num_forced = 0  # upper bound of the tokens appended without a draw and not computed yet
        self._running: list[Sequence] = []  # by sequence id
        self._prefilling: list[Sequence] = []  # in order of service
        self._num_computed = 0  # prompt tokens of all steps
        self._started_s = 0.0  # time when the step was planned
        self._decode_turn = False
        self._media_turn = False
        self._num_rows = 0  # of the step that was planned last
        self._decodes: StepPlan | None = None  # the plan of one row per running sequence, until the list changes

    @property
    def running(self) -> abc.Sequence[Sequence]:
        """The sequences that generate, by sequence id. Only the planner changes this list."""
        return self._running

    @property
    def prefilling(self) -> abc.Sequence[Sequence]:
        """The prompts that are being computed, in order of service. Only the planner changes this list."""
        return self._prefilling

    @property
    def num_active(self) -> int:
        """Number of sequences that hold a sequence id."""
        return len(self._running) + len(self._prefilling)

    @property
    def num_promised(self) -> int:
        """Cells that the next steps need: one per running sequence, and one per uncomputed row of the prompts."""
        return len(self._running) + sum(sequence.num_remaining for sequence in self._prefilling)

    @property
    def num_rows(self) -> int:
        """Rows of the step that was planned last."""
        return self._num_rows

    def attach_media(self, media: MediaSupply, *, max_whole_rows: int) -> None:
        """Take prompts with media. max_whole_rows: of media chunks in one pass. Before the first prompt."""
        self.media, self.max_whole_rows = media, max_whole_rows

    def enter(self, sequence: Sequence) -> None:
        """Add a prompt. It is due when the prompts have computed as many more tokens as it needs.

        Prompts are served by priority, then by due. So a short prompt is served before a long one, but no prompt
        waits forever: a prompt that arrives later than it is due cannot overtake it.
        """
        sequence.due = self._num_computed + sequence.num_remaining
        insort(self._prefilling, sequence, key=lambda other: (other.state.request.priority, other.due))
        self.num_reserved += len(sequence.forks)

    def start(self, sequence: Sequence) -> None:
        """Add a sequence with a computed prompt to the running ones. It takes part in each following step."""
        insort(self._running, sequence, key=lambda other: other.slot.seq_id)
        self._decodes = None

    def leave(self, sequence: Sequence) -> None:
        """Remove a running sequence or a prompt, depending on its status."""
        if sequence.status is SequenceStatus.RUNNING:
            self._running.remove(sequence)
            self._decodes = None
        elif sequence.status is SequenceStatus.PREFILLING:
            self._prefilling.remove(sequence)
            self.num_reserved -= len(sequence.forks)

    def plan(self) -> StepPlan | None:
        """Fill the batch with the next step; None if there is nothing to compute."""
        self._started_s = self.clock()
        self.batch.clear()
        kind = self._next_kind() if self._prefilling else StepKind.DECODE if self._running else None
        plan = None if kind is None else _PLANS[kind](self)
        self._num_rows = 0 if plan is None else plan.batch.num_tokens
        return plan

    def done(self, plan: StepPlan) -> None:
        """Note the duration of a step. Call it after the step, before its tokens are taken."""
        ms = (self.clock() - self._started_s) * 1000
        num_tokens = sum(chunk.num_tokens for chunk in plan.chunks) if plan.chunks else 0
        num_rows = plan.batch.num_tokens - num_tokens
        self._num_computed += num_tokens
        if plan.decodes:
            self.num_forced = 0
        if num_tokens and self._running:
            self.pacer.note_prompts(num_tokens, ms, num_rows)
        elif num_rows:
            self.pacer.note_decode(num_rows, ms)
        if num_tokens and not num_rows:
            first = self._prefilling[0]
            is_served = any(chunk.sequence is first for chunk in plan.chunks)
            first.num_passed = 0 if is_served else first.num_passed + 1

    def note_forced(self, num_tokens: int) -> None:
        """Note tokens that a running sequence has appended without a draw: the next step computes them too."""
        self.num_forced += num_tokens

    def forced_bounds(self, num_others: int) -> tuple[int, int]:
        """How many forced tokens (least, most) a sequence may append. num_others: rows of other sequences."""
        room = self.batch.n_tokens_max - num_others - self.num_forced
        return packing.forced_bounds(len(self._running), room, self.equal_lengths)

    def check_integrity(self) -> None:
        """Assert that the lists are consistent. For tests and debug runs."""
        ids = [sequence.slot.seq_id for sequence in self._running]
        assert ids == sorted(ids), "running is out of order"
        assert self.num_reserved == sum(len(sequence.forks) for sequence in self._prefilling)
        num_uncomputed = sum(sequence.num_remaining - 1 for sequence in self._running)
        assert 0 <= num_uncomputed <= self.num_forced, "a running sequence has tokens that no step computes"

    def _next_kind(self) -> StepKind | None:
        """The kind of the next step while there are prompts; None: all wait for their media."""
        texts = self._texts()
        if self.media is not None and any(map(self.media.is_ready, self._prefilling)):
            self._media_turn = not (self._media_turn and (self._running or texts))
            if self._media_turn:
                return StepKind.MEDIA
        self._media_turn = False
        if not texts:
            return StepKind.DECODE if self._running else None
        if not self.equal_lengths:
            return StepKind.DECODE
        self._decode_turn = bool(self._running) and not self._decode_turn
        return StepKind.DECODE if self._decode_turn else StepKind.EQUAL_CHUNKS

    def _plan_decode(self) -> StepPlan:
        """A row of each running sequence, and chunks of the prompts if memory and pacer allow them."""
        plan = self._start_decode()
        if not self._prefilling:
            return plan
        texts = self._texts()
        if not texts:
            return plan
        num_rows = len(self._running) + self.num_forced
        if self.equal_lengths:
            # A chunk of one token has the length of a decode row.
            return self._add_texts(plan, texts, [int(num_tokens == 1) for num_tokens in self._remaining(texts)])
        if self._running and self.pacer.must_see_decode(num_rows):
            return plan
        room = self.batch.n_tokens_max - num_rows
        return self._add_texts(plan, texts, ordered_chunks(self._remaining(texts), min(self._budget(), room)))

    def _plan_equal_chunks(self) -> StepPlan:
        """Only chunks of prompts, all of the same length."""
        texts = self._texts()
        must_serve_first = texts[0].num_passed >= _MAX_PASSED
        chunks = equal_chunks(self._remaining(texts), self._budget(), must_serve_first)
        return self._add_texts(StepPlan(StepKind.EQUAL_CHUNKS, self.batch), texts, chunks)

    def _plan_media(self) -> StepPlan:
        """Rows of media alone, of all prompts that are ready and whose rows attend in one way."""
        media = self.media
        assert media is not None
        media.clear()
        ready = [sequence for sequence in self._prefilling if media.is_ready(sequence)]
        is_causal = media.is_causal(ready[0])
        ready = [sequence for sequence in ready if media.is_causal(sequence) == is_causal]
        remaining = [sequence.num_in_reach for sequence in ready]
        if is_causal:
            lengths = ordered_chunks(remaining, self._budget())
        else:
            lengths = whole_chunks(remaining, self.max_whole_rows)
        plan = StepPlan(StepKind.MEDIA, media.batch)
        return self._add_chunks(plan, zip(ready, lengths, strict=True), media.extend)

    def _texts(self) -> list[Sequence]:
        """The prompts whose next row is text, in their order."""
        if self.media is None:
            return self._prefilling
        return [sequence for sequence in self._prefilling if sequence.layout.span_at(sequence.slot.length) is None]

    def _remaining(self, texts: list[Sequence]) -> list[int]:
        return packing.remaining_tokens(texts, self.n_outputs_max - len(self._running))

    def _budget(self) -> int:
        """Maximum prompt tokens of the next step."""
        room = self.batch.n_tokens_max
        if not self._running:
            return room
        return min(room, self.pacer.budget(len(self._running) + self.num_forced, len(self._prefilling)))

    def _start_decode(self) -> StepPlan:
        """A plan of the rows of the running sequences. Most steps share one plan object: do not change it."""
        plan = self._decodes
        if plan is None:
            plan = self._decodes = self._decode_plan(list(self._running))
        if not self.num_forced:
            packing.add_last_tokens(self.batch, plan.decodes)
            return plan
        plan = copy(plan)
        plan.counts = [sequence.num_remaining for sequence in plan.decodes]
        plan.rows = [packing.extend(self.batch, sequence, sequence.num_remaining) for sequence in plan.decodes]
        return plan

    def _decode_plan(self, running: list[Sequence]) -> StepPlan:
        plan = StepPlan(StepKind.DECODE, self.batch)
        plan.decodes = running
        plan.slots = [sequence.slot for sequence in running]
        plan.counts = [1] * len(running)
        plan.samplers = [sequence.sampler for sequence in running]
        plan.rows = list(range(len(running)))
        plan.constraints = packing.numbered(sequence.constraint for sequence in running)
        return plan

    def _add_texts(self, plan: StepPlan, texts: list[Sequence], lengths: list[int]) -> StepPlan:
        """A copy of the plan with lengths[i] tokens of texts[i] added."""
        return self._add_chunks(plan, zip(texts, lengths, strict=True), partial(packing.extend, self.batch))

    def _add_chunks(
        self, plan: StepPlan, lengths: abc.Iterable[tuple[Sequence, int]], extend: abc.Callable[[Sequence, int], int]
    ) -> StepPlan:
        """A copy of the plan with the next rows of prompts added.

        lengths: prompts, each with its number of rows. extend: puts the rows into the plan's batch.
        """
        plan = copy(plan)
        served = [(sequence, n) for sequence, n in lengths if n]
        # By sequence id: sequences with separate streams can only share a ubatch in ascending order.
        served.sort(key=lambda pair: pair[0].slot.seq_id)
        chunks = plan.chunks = [Chunk(sequence, n, extend(sequence, n)) for sequence, n in served]
        scored = [asked for chunk in chunks for asked in packing.asked_scores(chunk)]
        ending = [chunk for chunk in chunks if packing.ends_prompt(chunk)]
        drawing = [sequence for first, _, _ in ending for sequence in (first, *first.forks)]
        rows = [row for first, _, row in ending for _ in range(1 + len(first.forks))]
        constraints = packing.numbered((sequence.constraint for sequence in drawing), len(plan.samplers))
        plan.scored, plan.prefilled = scored, [chunk.sequence for chunk in ending]
        plan.samplers = [*plan.samplers, *(sequence.sampler for sequence in drawing)]
        plan.rows = [*plan.rows, *rows]
        plan.constraints = [*plan.constraints, *constraints]
        return plan


_PLANS = {
    StepKind.DECODE: StepPlanner._plan_decode,
    StepKind.EQUAL_CHUNKS: StepPlanner._plan_equal_chunks,
    StepKind.MEDIA: StepPlanner._plan_media,
}
