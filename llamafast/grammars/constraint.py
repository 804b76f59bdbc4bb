"""Constraint: the interface between the engine and a grammar, token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import TypeVar

from llamafast.errors import GrammarError, LlamaFastError
from llamafast.grammars.vocabulary import Vocabulary

T = TypeVar("T")

# CPU time in seconds: of a slow call, the number of slow calls allowed, of all calls of a request, and gained per
# token.
_SLOW_S = 0.05
_MAX_SLOW = 3
_MAX_TOTAL_S = 0.15
_TOKEN_S = 0.002
_TOO_SLOW = "the grammar is too complex: its tokens take too long to find"


class Constraint(ABC):
    """The state of one sequence in its grammar. A token is drawn first, then accept() checks it.

    A mask is computed only for a token that was not allowed. Not thread-safe.
    error: the reason for which the sequence had to end here.
    """

    error: LlamaFastError | None = None

    @abstractmethod
    def accept(self, token_id: int) -> bool:
        """Advance by one token if it is allowed. If not, return False and change nothing. Raises GrammarError beyond a
        limit.
        """

    @abstractmethod
    def mask(self) -> bytes:
        """The allowed tokens as bits, lowest first: n_vocab bits, rounded up to whole 32-bit words.

        Raises GrammarError beyond a limit.
        """

    @abstractmethod
    def forced(self, min_tokens: int = 1) -> list[int]:
        """The tokens that must come next. They are not accepted yet. Empty if they are fewer than min_tokens."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether the output is complete and nothing can follow."""


class CpuAccount:
    """The CPU time that the constraints of one request, with all its choices, may take on the engine's thread.

    Each token adds some. Memory grows with this time too, and all other requests wait for it.
    """

    def __init__(self) -> None:
        self._left_s = _MAX_TOTAL_S
        self._num_slow = 0

    def earn(self) -> None:
        """Add the time of an accepted token."""
        self._left_s = min(self._left_s + _TOKEN_S, _MAX_TOTAL_S)

    def run(self, call: Callable[[], T]) -> T:
        """The result of `call`. Raises GrammarError, before or after it, if the account is overdrawn."""
        if self._left_s < 0 or self._num_slow > _MAX_SLOW:
            raise GrammarError(_TOO_SLOW)
        start_s = thread_time()
        answer = call()
        cost_s = thread_time() - start_s
        self._left_s -= cost_s
        self._num_slow += cost_s > _SLOW_S
        if self._left_s < 0 or self._num_slow > _MAX_SLOW:
            raise GrammarError(_TOO_SLOW)
        return answer


class Program(ABC):
    """A compiled grammar. It is immutable and shared by all sequences that use it.

    vocabulary: the vocabulary for which it was compiled.
    warnings: the names of what was dropped.
    num_bytes: an estimate of its memory, without the vocabulary and its constraints.
    """

    vocabulary: Vocabulary
    warnings: tuple[str, ...] = ()
    num_bytes: int = 1 << 20

    @abstractmethod
    def start(self, account: CpuAccount | None = None) -> Constraint:
        """A constraint at the beginning of the output. account: the account of its request. None: a new one."""


class DelayedConstraint(Constraint):
    """A constraint that begins after the token ids start_after. Until then only the end of the output is forbidden."""

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

    program: the compiled grammar.
    warnings: the names of what was dropped because it cannot be enforced (only if StructuredOutput.strict is False).
    start_after: as in StructuredOutput.
    """

    program: Program
    warnings: tuple[str, ...] = ()
    start_after: tuple[int, ...] = ()

    def start(self, account: CpuAccount | None = None) -> Constraint:
        """A constraint for one sequence, at the beginning of its output. account: the account of its request."""
        constraint = self.program.start(account)
        if self.start_after:
            return DelayedConstraint(constraint, self.start_after, self.program.vocabulary)
        return constraint
