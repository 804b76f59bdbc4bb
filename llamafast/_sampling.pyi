"""The sampling state of one sequence and the draw of its next token. Not thread-safe."""

from array import array
from collections.abc import Iterable, Sequence

from llamafast._kernels import Readable, Writeable

class DryBreakers:
    """DRY's sequence breakers. Immutable, so samplers share it. Raises ValueError for an unknown id."""

    n_vocab: int
    def __init__(
        self, n_vocab: int, single: Iterable[int], pieces: Iterable[tuple[Iterable[int], Sequence[int]]] = ()
    ) -> None:
        """single: tokens that contain a whole breaker. pieces: (heads, tail): a head and then the tail contain one."""

class Sampler:
    """Sampling state of one sequence. Settings are those of SamplingParams, with the same values for off."""

    num_logprobs: int
    def __init__(
        self,
        n_vocab: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        top_n_sigma: float = -1.0,
        xtc_probability: float = 0.0,
        xtc_threshold: float = 0.1,
        dynatemp_range: float = 0.0,
        dynatemp_exponent: float = 1.0,
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        penalty_last_n: int = -1,
        dry_multiplier: float = 0.0,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_penalty_last_n: int = -1,
        dry_breakers: DryBreakers | None = None,
        logit_bias: Sequence[tuple[int, float]] = (),
        bad_words: Sequence[Sequence[int]] = (),
        allowed_token_ids: Sequence[int] | None = None,
        seed: int = 0,
        num_logprobs: int = -1,
        banned_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        """banned_ids cannot be drawn before min_tokens tokens were accepted. num_logprobs -1: no logprobs."""
    def prime(self, token_ids: array[int]) -> None:
        """Add the prompt to the history of the penalties and of DRY."""
    def accept(self, token_id: int) -> None: ...
    def adjusted(self, logits: Readable) -> array[float]:
        """A copy of the logits, float32 (n_vocab,), with bias, penalties and bans, but without filters."""
    def draw(
        self, logits: Writeable, mask: Readable | None = None, n_draws: int = 1, position: int | None = None
    ) -> list[int]:
        """Draw n_draws tokens from logits, float32 (n_vocab,), without accepting them. The row does not change.

        position: index in the output; the i-th draw uses the random numbers of position + i. None: the next token's.

        mask: n_vocab bits as uint32 words, lowest bit first. -1 if no allowed token is above -inf.
        """
