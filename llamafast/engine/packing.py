"""What goes into a step, and how many prompt tokens of which sequence."""

from __future__ import annotations

from collections.abc import Iterable

from llamafast._core import Batch
from llamafast._sampling import Sampler
from llamafast.engine.scoring import Score
from llamafast.engine.sequence import Sequence
from llamafast.grammars.constraint import Constraint

_MAX_FORCED = 64
_MIN_FORCED_ALONE = 4


class SchedulerOutput:
    """One step. samplers[i] draws from batch row rows[i], for `decodes` first, then for `prefilled` and their forks.

    decodes have one row each, and those of the forced tokens behind their last one; chunks are (sequence, tokens) of
    the prompts; prefilled are those that end in this step. constraints[k] is (i, that of samplers[i]). num_asked prompt
    rows are to be scored; scores, put in after the step, are theirs, in the chunks' order.
    """

    __slots__ = ("chunks", "constraints", "decodes", "num_asked", "prefilled", "rows", "samplers", "scores")

    def __init__(self, decodes: list[Sequence], rows: list[int], samplers: list[Sampler]) -> None:
        self.decodes = decodes
        self.rows = rows
        self.samplers = samplers
        self.chunks: list[tuple[Sequence, int]] = []
        self.prefilled: list[Sequence] = []
        self.constraints: list[tuple[int, Constraint]] = []
        self.num_asked = 0
        self.scores: list[Score] = []


def extend(batch: Batch, sequence: Sequence, num_tokens: int) -> int:
    """Put the next num_tokens of a sequence into the batch; the row of the last one."""
    start = sequence.slot.length
    return batch.extend(sequence.token_ids, start, start + num_tokens, sequence.next_pos, sequence.slot.seq_id)


def numbered(constraints: Iterable[Constraint | None], first: int = 0) -> list[tuple[int, Constraint]]:
    """Those that exist, each with its number; counting begins with `first`."""
    return [(i, constraint) for i, constraint in enumerate(constraints, first) if constraint is not None]


def remaining_tokens(sequences: list[Sequence], room: int) -> list[int]:
    """Tokens that each prompt may want in one step, shape (n,), of which `room` rows can give logits."""
    remaining = [sequence.num_in_reach for sequence in sequences]
    scored = [sequence.is_scored for sequence in sequences]
    return cap_scored(remaining, scored, room) if True in scored else remaining


def cap_scored(remaining: list[int], scored: list[bool], room: int) -> list[int]:
    """What is left of each prompt, shape (n,), where every token of a scored one takes one of `room` output rows.

    Each of the others takes one row at most. A scored prompt gets one token in any case.
    """
    num_scored = sum(scored)
    most = max(1, (room - len(scored) + num_scored) // num_scored)
    return [min(n, most) if is_scored else n for n, is_scored in zip(remaining, scored, strict=True)]


def forced_bounds(num_running: int, room: int, equal_lengths: bool) -> tuple[int, int]:
    """How many tokens, (least, most), a sequence may append at once because its grammar forces them.

    Where ubatches have to be of equal length they are a pass over the weights of their own: fewer do not pay for it.
    room: rows of the next batch that nobody needs.
    """
    return max(_MIN_FORCED_ALONE, num_running) if equal_lengths else 1, max(0, min(room, _MAX_FORCED))


def ordered_chunks(remaining: list[int], budget: int) -> list[int]:
    """Tokens for each prompt, shape (n,), given what each has left: all that the first can take, then the next."""
    chunks = []
    for n in remaining:
        chunks.append(min(n, budget))
        budget -= chunks[-1]
    return chunks


def equal_chunks(remaining: list[int], budget: int, must_serve_first: bool) -> list[int]:
    """Tokens for each prompt, shape (n,), where all that get some get the same number.

    Such a step is one pass over the weights for memories that split ubatches by equal length. The length that computes
    most wins, then the one that serves most: n different lengths are done after a few passes instead of n.
    must_serve_first allows only lengths that the first prompt can have.
    """
    longest = min(remaining[0] if must_serve_first else max(remaining), budget)

    def num_tokens(length: int) -> int:
        return length * min(budget // length, sum(n >= length for n in remaining))

    shares = (budget // k for k in range(1, min(len(remaining), budget) + 1))
    best = max({min(longest, n) for n in (*remaining, *shares)}, key=lambda length: (num_tokens(length), -length))
    num_left = budget // best
    chunks = []
    for n in remaining:
        chunks.append(best if n >= best and num_left else 0)
        num_left -= chunks[-1] > 0
    return chunks
