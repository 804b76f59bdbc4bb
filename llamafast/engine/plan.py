"""StepPlan: the record of one step, with its rows, its draws and their sequences."""

from __future__ import annotations

from collections import abc
from enum import Enum
from typing import NamedTuple

from llamafast._core import Batch, MediaBatch
from llamafast._sampling import Sampler
from llamafast.cache.slots import Slot
from llamafast.engine.scoring import AskedScore, Score, num_scored_rows
from llamafast.engine.sequence import Sequence
from llamafast.grammars.constraint import Constraint


class StepKind(Enum):
    """The kind of rows that a step computes. The planner has one method per kind (StepPlanner.plan)."""

    DECODE = 0  # the next rows of the running sequences, with chunks of prompts if the memory allows both in one step
    EQUAL_CHUNKS = 1  # only chunks of prompts, all of the same length
    MEDIA = 2  # only rows of media, of one prompt or several


class Chunk(NamedTuple):
    """A part of a prompt that one step computes.

    sequence: the sequence of the prompt.
    num_tokens: length of the part, 1 or more. The part begins where the slot ends.
    last_row: the batch row of its last token.
    """

    sequence: Sequence
    num_tokens: int
    last_row: int


class StepPlan:
    """One step. The planner fills it, the runner computes it, and StepUpdate takes its tokens.

    A draw is the sampling for one sequence. Draws are numbered: first those of `decodes`, then those of
    each prompt in `prefilled`, each followed by those of its forks.

    kind: the kind of rows.
    batch: the rows that are computed.
    decodes: the running sequences that compute rows in this step.
    slots: the slot of each of `decodes`.
    counts: the number of rows of each of `decodes`: 1, plus one per forced token and per drafted token.
    chunks: the parts of prompts that are computed, by ascending sequence id.
    prefilled: the prompts that end in this step, in the order of `chunks`.
    samplers: the sampler of each draw.
    rows: the batch row that each draw reads. Forks read the same row.
    drafts: (number of the draw, number of drafted tokens) of each draw that has drafts. The rows after the draw's own
    row contain these tokens: the draw continues with the next row while it draws the same tokens.
    constraints: (number of the draw, its constraint) of each draw that has a constraint.
    scored: (row, token id, number of alternatives) of each row that computes the logprob of the token after it.
    scores: the results of these rows, by row. The engine sets it after the step.
    """

    __slots__ = (
        "batch",
        "chunks",
        "constraints",
        "counts",
        "decodes",
        "drafts",
        "kind",
        "prefilled",
        "rows",
        "samplers",
        "scored",
        "scores",
        "slots",
    )

    def __init__(
        self,
        kind: StepKind,
        batch: Batch | MediaBatch,
        *,
        rows: abc.Sequence[int] = (),
        samplers: abc.Sequence[Sampler] = (),
    ) -> None:
        self.kind = kind
        self.batch = batch
        self.decodes: abc.Sequence[Sequence] = ()
        self.slots: abc.Sequence[Slot] = ()
        self.counts: abc.Sequence[int] = ()
        self.chunks: abc.Sequence[Chunk] = ()
        self.prefilled: abc.Sequence[Sequence] = ()
        self.samplers = samplers
        self.rows = rows
        self.drafts: abc.Sequence[tuple[int, int]] = ()
        self.constraints: abc.Sequence[tuple[int, Constraint]] = ()
        self.scored: abc.Sequence[AskedScore] = ()
        self.scores: abc.Mapping[int, Score] = {}


def max_output_rows(*, n_seq_max: int, n_batch: int, n_vocab: int) -> int:
    """The maximum number of rows of one step that need logits.

    Each of n_seq_max sequences draws from one row. A scored prompt needs the logits of all rows of its chunk. The
    planner limits these chunks, so that drawn and scored rows fit together (packing.cap_scored).
    """
    return max(n_seq_max, min(n_batch, num_scored_rows(n_vocab)))
