"""Puts tokens into the batch, and divides the prompt tokens of a step among the prompts."""

from __future__ import annotations

from collections import abc

from llamafast._core import Batch
from llamafast.engine.plan import Chunk
from llamafast.engine.scoring import AskedScore
from llamafast.engine.sequence import Sequence
from llamafast.grammars.constraint import Constraint

_MAX_FORCED = 64
_MIN_FORCED_ALONE = 4


def extend(batch: Batch, sequence: Sequence, num_tokens: int) -> int:
    """Put the next num_tokens of a sequence into the batch. Returns the row of the last one."""
    start = sequence.slot.length
    return batch.extend(sequence.token_ids, start, start + num_tokens, sequence.next_pos, sequence.slot.seq_id)


def add_last_tokens(batch: Batch, sequences: abc.Sequence[Sequence]) -> None:
    """Put the last token of each sequence into the batch. All tokens before it must be computed."""
    add = batch.add
    for sequence in sequences:
        slot = sequence.slot
        add(sequence.last_token, slot.length + sequence.pos_offset, slot.seq_id)


def ends_prompt(chunk: Chunk) -> bool:
    """Whether a token is drawn after this chunk. A prompt that is only scored draws none."""
    sequence, num_tokens, _ = chunk
    return sequence.slot.length + num_tokens == len(sequence.token_ids)


def asked_scores(chunk: Chunk) -> list[AskedScore]:
    """The scores of prompt tokens that the rows of this chunk compute."""
    sequence, num_tokens, last_row = chunk
    scores, start = sequence.state.scores, sequence.slot.length
    return [] if scores is None else scores.ask(start, start + num_tokens, last_row)


def numbered(constraints: abc.Iterable[Constraint | None], first: int = 0) -> list[tuple[int, Constraint]]:
    """(number, constraint) of each constraint that is not None; the numbers begin with `first`."""
    return [(i, constraint) for i, constraint in enumerate(constraints, first) if constraint is not None]


def remaining_tokens(sequences: list[Sequence], room: int) -> list[int]:
    """Tokens that each prompt can compute in one step, shape (n,). room: rows of the step that may have logits."""
    remaining = [sequence.num_in_reach for sequence in sequences]
    scored = [sequence.is_scored for sequence in sequences]
    return cap_scored(remaining, scored, room) if True in scored else remaining


def cap_scored(remaining: list[int], scored: list[bool], room: int) -> list[int]:
    """Tokens that each prompt can compute, shape (n,), so that their output rows fit into `room`.

    remaining: uncomputed tokens of each prompt.
    scored: whether each prompt is scored. A scored prompt needs an output row per token, and gets at least one token.
    Another prompt needs at most one output row.
    """
    num_scored = sum(scored)
    most = max(1, (room - len(scored) + num_scored) // num_scored)
    return [min(n, most) if is_scored else n for n, is_scored in zip(remaining, scored, strict=True)]


def forced_bounds(num_running: int, room: int, equal_lengths: bool) -> tuple[int, int]:
    """How many forced tokens (least, most) a sequence may append at once.

    room: unused rows of the next batch. If ubatches must have equal lengths, forced tokens need an additional pass over
    the weights, which is not worth it for fewer tokens than `least`.
    """
    return max(_MIN_FORCED_ALONE, num_running) if equal_lengths else 1, max(0, min(room, _MAX_FORCED))


def ordered_chunks(remaining: list[int], budget: int) -> list[int]:
    """Tokens for each prompt, shape (n,), in order: the first prompt gets all it has left, then the next."""
    chunks = []
    for n in remaining:
        chunks.append(min(n, budget))
        budget -= chunks[-1]
    return chunks


def whole_chunks(remaining: list[int], room: int) -> list[int]:
    """Rows for each prompt, shape (n,): all that it has left, or none. The first one gets its rows in any case."""
    chunks: list[int] = []
    for n in remaining:
        chunks.append(n if n <= room or not chunks else 0)
        room -= chunks[-1]
    return chunks


def equal_chunks(remaining: list[int], budget: int, must_serve_first: bool) -> list[int]:
    """Tokens for each prompt, shape (n,): each served prompt gets the same number, the others 0.

    For memories that split ubatches by equal length, such a step is one pass over the weights. It uses the length that
    computes the most tokens, or of several such lengths the one that serves the most prompts. So n prompts of different
    lengths take a few passes instead of n. must_serve_first: the first prompt must be served.
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
