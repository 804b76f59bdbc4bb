"""GBNF constraints: a pushdown automaton over bytes, whose states are shared by all sequences."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeVar
from weakref import WeakSet

from llamafast._grammar import ByteMachine
from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint, CpuAccount, Program
from llamafast.grammars.gbnf import parse_gbnf
from llamafast.grammars.vocabulary import Vocabulary

T = TypeVar("T")

MAX_BYTES = 32 * 1024 * 1024  # of the states of one grammar
_START, _DEAD = 0, -1
_MIN_FORCED_BYTES = 4
_MAX_FORCED_BYTES = 256


def compile_gbnf(vocabulary: Vocabulary, text: str, *, max_bytes: int = MAX_BYTES) -> Program:
    """A program for a grammar in llama.cpp's format, from its rule "root". Raises GrammarError.

    max_bytes: the limit of its states, which are found while it runs. Beyond it unused states are dropped.
    """
    rules = parse_gbnf(text)
    try:
        machine = ByteMachine(vocabulary.order, rules.rules, rules.byte_sets, max_bytes)
        machine.mask(_START)
    except (ValueError, MemoryError) as error:
        raise GrammarError(str(error)) from None
    return _GbnfProgram(vocabulary, machine, max_bytes)


class _GbnfProgram(Program):
    def __init__(self, vocabulary: Vocabulary, machine: ByteMachine, max_bytes: int) -> None:
        self.vocabulary = vocabulary
        self._machine = machine
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._running: WeakSet[_GbnfConstraint] = WeakSet()

    @property
    def num_bytes(self) -> int:  # type: ignore[override]
        return self._machine.num_bytes

    def start(self, account: CpuAccount | None = None) -> Constraint:
        constraint = _GbnfConstraint(self, self._machine, account or CpuAccount())
        with self._lock:
            self._running.add(constraint)
        return constraint

    def make_room(self) -> bool:
        """Drop the states that no sequence is in. Returns whether that made enough room."""
        with self._lock:
            running = list(self._running)
        numbers = self._machine.compact({constraint.state for constraint in running})
        for constraint in running:
            constraint.state = numbers[constraint.state]
        return self._machine.num_state_bytes <= self._max_bytes // 2


class _GbnfConstraint(Constraint):
    def __init__(self, program: _GbnfProgram, machine: ByteMachine, account: CpuAccount) -> None:
        self._program = program
        self._account = account
        self._machine = machine
        self.state = _START

    def accept(self, token_id: int) -> bool:
        if token_id in self._program.vocabulary.eog_ids:
            return self._machine.may_end(self.state)
        state = self._ask(lambda: self._machine.accept(self.state, token_id))
        if state == _DEAD:
            return False
        self.state = state
        self._account.earn()
        return True

    def mask(self) -> bytes:
        return self._ask(lambda: self._machine.mask(self.state))

    def forced(self, min_tokens: int = 1) -> list[int]:
        data = self._ask(lambda: self._machine.forced(self.state, _MAX_FORCED_BYTES))
        if len(data) < max(_MIN_FORCED_BYTES, min_tokens):
            return []
        # The last token might be a longer one if more text followed.
        token_ids = self._program.vocabulary.tokenize(data.decode("utf-8", "ignore"))[:-1]
        return token_ids if len(token_ids) >= min_tokens else []

    @property
    def is_finished(self) -> bool:
        return self._machine.must_end(self.state)

    def _ask(self, call: Callable[[], T]) -> T:
        """The result of a call of the automaton, with room for new states if needed. Raises GrammarError."""
        try:
            try:
                return self._account.run(call)
            except MemoryError:
                if not self._program.make_room():
                    raise
                return self._account.run(call)
        except (ValueError, MemoryError) as error:
            raise GrammarError(str(error)) from None
