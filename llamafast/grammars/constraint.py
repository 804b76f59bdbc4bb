"""What the engine asks of a grammar, token by token."""

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

# CPU time in seconds: of one slow call, how many of those are taken, of all calls of a request, and what a token adds.
_SLOW_S = 0.05
_MAX_SLOW = 3
_MAX_TOTAL_S = 0.15
_TOKEN_S = 0.002
_TOO_SLOW = "the grammar is too complex: its tokens take too long to find"


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


class CpuAccount:
    """CPU time that the constraints of one request may take on the engine's thread, all its choices together.

    Each token earns some. Memory grows with this time too, and everyone else waits for it.
    """

    def __init__(self) -> None:
        self._left_s = _MAX_TOTAL_S
        self._num_slow = 0

    def earn(self) -> None:
        """A token was accepted."""
        self._left_s = min(self._left_s + _TOKEN_S, _MAX_TOTAL_S)

    def run(self, call: Callable[[], T]) -> T:
        """What `call` answers. Raises GrammarError before it or after it if the account is overdrawn."""
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
    """A compiled grammar: immutable, shared by all that run it. warnings: what was dropped on the way.

    num_bytes: an estimate of the memory that it holds, without the vocabulary and its constraints.
    """

    vocabulary: Vocabulary
    warnings: tuple[str, ...] = ()
    num_bytes: int = 1 << 20

    @abstractmethod
    def start(self, account: CpuAccount | None = None) -> Constraint:
        """A constraint at the beginning of the output. account: of its request; None: one of its own."""


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

    def start(self, account: CpuAccount | None = None) -> Constraint:
        """A constraint for one sequence, at the beginning of its output. account: its request's."""
        constraint = self.program.start(account)
        if self.start_after:
            return DelayedConstraint(constraint, self.start_after, self.program.vocabulary)
        return constraint
