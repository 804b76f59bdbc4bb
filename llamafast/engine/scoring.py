"""The logprobs of a prompt's own tokens: asked for chunk by chunk, kept over a preemption."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from llamafast._core import Batch
from llamafast.request import TokenLogprob

Score = tuple[float, int, list[tuple[int, float]]]

# Of logits in one step; llama.cpp holds them twice.
_MAX_LOGITS_BYTES = 64 * 2**20


def num_scored_rows(n_vocab: int) -> int:
    """Rows of a prompt that one step may score: few steps for a vocabulary of any size, within a bound of memory."""
    return max(1, _MAX_LOGITS_BYTES // (4 * n_vocab))


class PromptScores:
    """entries[i] is the logprob of prompt token i, None for the first one, which nothing precedes.

    The row of token i gives the entry of token i + 1. num_top: alternatives per token. names: bytes by token id.
    """

    __slots__ = ("_names", "_num_top", "_token_ids", "entries")

    def __init__(self, token_ids: array[int], num_top: int, names: list[bytes]) -> None:
        self.entries: list[TokenLogprob | None] = [None]
        self._token_ids = token_ids
        self._num_top = num_top
        self._names = names

    @property
    def is_done(self) -> bool:
        """Whether all entries are there."""
        return len(self.entries) == len(self._token_ids)

    def ask(self, batch: Batch, first_row: int, start: int, end: int) -> int:
        """Ask for the entries that tokens [start, end) give, from first_row of the batch on; how many are new."""
        new = range(max(start, len(self.entries) - 1), min(end, len(self._token_ids) - 1))
        for i in new:
            batch.score(first_row + i - start, self._token_ids[i + 1], self._num_top)
        return len(new)

    def take(self, scores: Iterator[Score], end: int) -> None:
        """Append what the step brought that was to compute the tokens before `end`. IN/OUT scores."""
        names = self._names
        for i in range(len(self.entries), min(end + 1, len(self._token_ids))):
            logprob, rank, best = next(scores)
            token_id = self._token_ids[i]
            top = tuple((k, value, names[k]) for k, value in best)
            self.entries.append(TokenLogprob(token_id, logprob, names[token_id], 0, top, rank))
