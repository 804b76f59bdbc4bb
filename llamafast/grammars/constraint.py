"""What the engine asks of a grammar, token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Constraint(ABC):
    """Where one sequence stands in its grammar. A token is drawn first, then accept() says whether it may stand.

    Only a token that was not allowed costs a mask. One thread at a time.
    """

    @abstractmethod
    def accept(self, token_id: int) -> bool:
        """Take one token if it is allowed; False, and nothing changes, if not. Raises GrammarError beyond a limit."""

    @abstractmethod
    def mask(self) -> bytes:
        """The allowed tokens as bits, lowest first, n_vocab bits rounded up to whole 32-bit words.

        Raises GrammarError beyond a limit.
        """

    @abstractmethod
    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model says. Not accepted yet."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether the output is complete and nothing can follow."""
