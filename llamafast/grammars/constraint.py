"""What the engine asks of a grammar, token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from llamafast.errors import LlamaFastError
from llamafast.grammars.vocabulary import Vocabulary


class Constraint(ABC):
    """Where one sequence stands in its grammar. A token is drawn first, then accept() says whether it may stand.

    Only a token that was not allowed costs a mask. error: why the sequence had to end here. One thread at a time.
    """

    error: LlamaFastError | None = None

    @abstractmethod
    def accept(self, token_id: int) -> bool:
        """Take one token if it is allowed; False, and nothing changes, if not. Raises GrammarError beyond a limit."""

    @abstractmethod
    def mask(self) -> bytes:
        """The allowed tokens as bits, lowest first, n_vocab bits rounded up to whole 32-bit words.

        Raises GrammarError beyond a limit.
        """

    @abstractmethod
    def forced(self, min_tokens: int = 1) -> list[int]:
        """The tokens that must come next, whatever the model says, not accepted yet; none if they are fewer."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether the output is complete and nothing can follow."""


class Program(ABC):
    """A compiled grammar: immutable, shared by all that run it. warnings: what was dropped on the way.

    num_bytes: an estimate of the memory that it holds, without the vocabulary and its constraints.
    """

    vocabulary: Vocabulary
    warnings: tuple[str, ...] = ()
    num_bytes: int = 1 << 20

    @abstractmethod
    def start(self) -> Constraint:
        """A constraint at the beginning of the output."""


class DelayedConstraint(Constraint):
    """Sleeps until the tokens of start_after have come, at least one; until then only the end is not allowed."""

    def __init__(self, inner: Constraint, start_after: Sequence[int], vocabulary: Vocabulary) -> None:
        self._inner = inner
        self._start_after = list(start_after)
        self._last = deque[int](maxlen=len(start_after))
        self._eog_ids = vocabulary.eog_ids
        self._n_vocab = vocabulary.n_vocab
        self._is_awake = False

    def accept(self, token_id: int) -> bool:
        if self._is_awake:
            return self._inner.accept(token_id)
        if token_id in self._eog_ids:
            return False
        self._last.append(token_id)
        self._is_awake = list(self._last) == self._start_after
        return True

    def mask(self) -> bytes:
        if self._is_awake:
            return self._inner.mask()
        bits = array("I", [0xFFFFFFFF]) * ((self._n_vocab + 31) // 32)
        for i in self._eog_ids:
            bits[i // 32] &= ~(1 << i % 32)
        return bits.tobytes()

    def forced(self, min_tokens: int = 1) -> list[int]:
        return self._inner.forced(min_tokens) if self._is_awake else []

    @property
    def is_finished(self) -> bool:
        return self._is_awake and self._inner.is_finished


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled constraint, shared by all requests that use it.

    warnings: what was dropped because it cannot be enforced (only where StructuredOutput.strict is False).
    start_after: as in StructuredOutput.
    """

    program: Program
    warnings: tuple[str, ...] = ()
    start_after: tuple[int, ...] = ()

    def start(self) -> Constraint:
        """A constraint for one sequence, at the beginning of its output."""
        constraint = self.program.start()
        if self.start_after:
            return DelayedConstraint(constraint, self.start_after, self.program.vocabulary)
        return constraint
