"""Sampling of one sequence: its settings, its random numbers and what its penalties have seen. Not thread-safe."""

from array import array
from collections.abc import Sequence

from llamafast._kernels import Readable, Writeable

class Sampler:
    """Sampling state of one sequence: settings, own RNG, token counts for the penalties."""

    num_logprobs: int
    def __init__(
        self,
        n_vocab: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        logit_bias: Sequence[tuple[int, float]] = (),
        seed: int = 0,
        num_logprobs: int = -1,
        banned_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """banned_ids cannot be drawn before min_tokens tokens were accepted. num_logprobs -1: none."""
    def prime(self, token_ids: array[int]) -> None:
        """Count prompt tokens for the penalties."""
    def accept(self, token_id: int) -> None: ...
    def draw(self, logits: Writeable, mask: Readable | None = None, n_draws: int = 1) -> list[int]:
        """n_draws tokens from logits, float32 (n_vocab,), none accepted; the row is the same afterwards.

        mask: n_vocab bits as uint32 words, lowest bit first; -1 where no allowed token is above -inf.
        """
