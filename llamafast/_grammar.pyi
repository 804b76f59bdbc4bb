"""A pushdown machine over bytes: which tokens of a vocabulary may come next under context-free rules."""

from collections.abc import Iterable, Sequence

class TokenOrder:
    """The tokens of a vocabulary in the order of their bytes. Immutable."""

    n_vocab: int
    def __init__(self, token_bytes: list[bytes], eog_ids: Iterable[int]) -> None: ...

class ByteMachine:
    """Rules as a machine whose states are sets of stacks. State 0 is the start; -1 is dead. One thread at a time.

    Raises ValueError when the rules are too ambiguous, and MemoryError when the states take more than max_bytes: see
    compact().
    """

    num_bytes: int
    num_state_bytes: int
    def __init__(
        self,
        order: TokenOrder,
        rules: Sequence[Sequence[Sequence[int]]],
        byte_sets: Sequence[int],
        max_bytes: int = 33554432,
    ) -> None:
        """rules and byte_sets as in grammars.rules.Rules."""
    def compact(self, states: Iterable[int]) -> dict[int, int]:
        """Forget all states but the start and these; the new number of each. Numbers from before mean nothing after."""
    def accept(self, state: int, token_id: int) -> int:
        """The state behind a token, -1 if it is not allowed. An end token is no step: see may_end."""
    def may_end(self, state: int) -> bool:
        """Whether the text is complete there."""
    def must_end(self, state: int) -> bool:
        """Whether nothing can follow."""
    def forced(self, state: int, max_bytes: int) -> bytes:
        """The bytes that must come next, at most max_bytes."""
    def mask(self, state: int) -> bytes:
        """The allowed tokens as bits, lowest first, in whole 32-bit words."""
