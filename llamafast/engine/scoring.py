"""The logprobs of a prompt's own tokens. Each chunk asks for those of its rows; a preemption keeps what has come."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from llamafast.request import TokenLogprob

AskedScore = tuple[int, int, int]
"""(batch row, id of the token that follows it, number of alternatives)"""

Score = tuple[float, int, list[tuple[int, float]]]
"""(raw logprob, rank from 1, [(token id, logprob), ...] with the likeliest first)"""

# Of logits in one step; llama.cpp holds them twice.
_MAX_LOGITS_BYTES = 64 * 2**20


def num_scored_rows(n_vocab: int) -> int:
    """Rows of prompts that one step may score: few steps for a vocabulary of any size, with bounded memory."""
    return max(1, _MAX_LOGITS_BYTES // (4 * n_vocab))


class PromptScores:
    """The scores of one prompt.

    entries: the logprob of each prompt token; None for the first one, which follows nothing. The row of token i gives
    the entry of token i + 1.
    token_ids: the prompt. num_top: alternatives per token. names: bytes of each token id.
    """

    __slots__ = ("_names", "_num_top", "_token_ids", "entries")

    def __init__(self, token_ids: array[int], num_top: int, names: list[bytes]) -> None:
        self.entries: list[TokenLogprob | None] = [None]
        self._token_ids = token_ids
        self._num_top = num_top
        self._names = names

    @property
    def is_done(self) -> bool:
        """Whether all entries have come."""
        return len(self.entries) == len(self._token_ids)

    def ask(self, start: int, end: int, last_row: int) -> list[AskedScore]:
        """The scores to ask for in a step that computes tokens [start, end). Token end - 1 is in last_row."""
        new = range(max(start, len(self.entries) - 1), min(end, len(self._token_ids) - 1))
        first_row = last_row + 1 - end  # of token 0, if it were in the batch
        return [(first_row + i, self._token_ids[i + 1], self._num_top) for i in new]

    def take(self, scores: Mapping[int, Score], end: int, last_row: int) -> None:
        """Append the entries that a step brought, by row. It computed the tokens before `end`, the last in last_row."""
        names = self._names
        first_row = last_row + 1 - end
        for i in range(len(self.entries), min(end + 1, len(self._token_ids))):
            logprob, rank, best = scores[first_row + i - 1]
            token_id = self._token_ids[i]
            top = tuple((k, value, names[k]) for k, value in best)
            self.entries.append(TokenLogprob(token_id, logprob, names[token_id], 0, top, rank))
