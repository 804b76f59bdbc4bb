"""A pushdown machine over bytes: finds the allowed next tokens under context-free rules."""

from collections.abc import Iterable, Sequence

class TokenOrder:
    """The tokens of a vocabulary, sorted by bytes. Immutable."""

    n_vocab: int
    def __init__(self, token_bytes: list[bytes], eog_ids: Iterable[int]) -> None: ...

class ByteMachine:
    """A machine for grammar rules. State 0 is the start, -1 the dead state. Only one thread at a time may use it.

    Raises ValueError if the rules are too ambiguous, and MemoryError if the states take more than max_bytes (see
    compact).
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
        """rules and byte_sets as in grammars.byte_rules."""
    def compact(self, states: Iterable[int]) -> dict[int, int]:
        """Remove all states except the start and these. Returns their new numbers by old ones, which become invalid."""
    def accept(self, state: int, token_id: int) -> int:
        """The state after a token; -1 if the token is not allowed. End tokens are not handled here: see may_end."""
    def may_end(self, state: int) -> bool:
        """Whether the text is complete in this state."""
    def must_end(self, state: int) -> bool:
        """Whether no byte can follow in this state."""
    def forced(self, state: int, max_bytes: int) -> bytes:
        """The bytes that must come next, at most max_bytes."""
    def mask(self, state: int) -> bytes:
        """The allowed tokens as bits in 32-bit words, lowest bit first."""
