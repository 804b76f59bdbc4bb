"""PromptScores: the logprobs of a prompt's own tokens, chunk by chunk. They survive a preemption."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from llamafast.request import TokenLogprob

AskedScore = tuple[int, int, int]
"""(batch row, id of the token that follows it, number of alternatives)"""

Score = tuple[float, int, list[tuple[int, float]]]
"""(raw logprob, rank from 1, [(token id, logprob), ...] from the most likely)"""

# Bytes of logits in one step. llama.cpp holds them twice.
_MAX_LOGITS_BYTES = 64 * 2**20


def num_scored_rows(n_vocab: int) -> int:
    """Maximum prompt rows that one step may score, so that their logits fit into 64 MiB."""
    return max(1, _MAX_LOGITS_BYTES // (4 * n_vocab))


class PromptScores:
    """The scores of one prompt.

    entries: the logprobs computed so far, one per prompt token; None for the first token. The row of token i computes
    the entry of token i + 1.
    token_ids: the prompt.
    num_top: number of alternatives per token.
    names: bytes of each token id.
    """

    __slots__ = ("_names", "_num_top", "_token_ids", "entries")

    def __init__(self, token_ids: array[int], num_top: int, names: list[bytes]) -> None:
        self.entries: list[TokenLogprob | None] = [None]
        self._token_ids = token_ids
        self._num_top = num_top
        self._names = names

    @property
    def is_done(self) -> bool:
        """Whether all entries are computed."""
        return len(self.entries) == len(self._token_ids)

    def ask(self, start: int, end: int, last_row: int) -> list[AskedScore]:
        """The scores to compute in a step with the tokens [start, end). Token end - 1 is in last_row."""
        new = range(max(start, len(self.entries) - 1), min(end, len(self._token_ids) - 1))
        first_row = last_row + 1 - end  # row of token 0, if it were in the batch
        return [(first_row + i, self._token_ids[i + 1], self._num_top) for i in new]

    def take(self, scores: Mapping[int, Score], end: int, last_row: int) -> None:
        """Append entries from a step's scores, by row. It computed tokens up to end - 1, which is in last_row."""
        names = self._names
        first_row = last_row + 1 - end
        for i in range(len(self.entries), min(end + 1, len(self._token_ids))):
            logprob, rank, best = scores[first_row + i - 1]
            token_id = self._token_ids[i]
            top = tuple((k, value, names[k]) for k, value in best)
            self.entries.append(TokenLogprob(token_id, logprob, names[token_id], 0, top, rank))
