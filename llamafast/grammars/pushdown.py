"""GBNF: a grammar's rules on a machine over bytes, whose states all sequences share."""

from __future__ import annotations

from llamafast._grammar import ByteMachine
from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint, Program
from llamafast.grammars.gbnf import parse_gbnf
from llamafast.grammars.vocabulary import Vocabulary

_START, _DEAD = 0, -1
_MIN_FORCED_BYTES = 4
_MAX_FORCED_BYTES = 256


def compile_gbnf(vocabulary: Vocabulary, text: str) -> Program:
    """A program for a grammar in llama.cpp's format, from its rule "root". Raises GrammarError."""
    rules = parse_gbnf(text)
    try:
        machine = ByteMachine(vocabulary.order, rules.rules, rules.byte_sets)
        machine.mask(_START)
    except ValueError as error:
        raise GrammarError(str(error)) from None
    return _GbnfProgram(vocabulary, machine)


class _GbnfProgram(Program):
    def __init__(self, vocabulary: Vocabulary, machine: ByteMachine) -> None:
        self.vocabulary = vocabulary
        self._machine = machine

    def start(self) -> Constraint:
        return _GbnfConstraint(self.vocabulary, self._machine)


class _GbnfConstraint(Constraint):
    def __init__(self, vocabulary: Vocabulary, machine: ByteMachine) -> None:
        self._vocabulary = vocabulary
        self._machine = machine
        self._state = _START

    def accept(self, token_id: int) -> bool:
        if token_id in self._vocabulary.eog_ids:
            return self._machine.may_end(self._state)
        try:
            state = self._machine.accept(self._state, token_id)
        except ValueError as error:
            raise GrammarError(str(error)) from None
        if state == _DEAD:
            return False
        self._state = state
        return True

    def mask(self) -> bytes:
        try:
            return self._machine.mask(self._state)
        except ValueError as error:
            raise GrammarError(str(error)) from None

    def forced(self, min_tokens: int = 1) -> list[int]:
        try:
            data = self._machine.forced(self._state, _MAX_FORCED_BYTES)
        except ValueError as error:
            raise GrammarError(str(error)) from None
        if len(data) < max(_MIN_FORCED_BYTES, min_tokens):
            return []
        # The last token might be a longer one if more followed.
        token_ids = self._vocabulary.tokenize(data.decode("utf-8", "ignore"))[:-1]
        return token_ids if len(token_ids) >= min_tokens else []

    @property
    def is_finished(self) -> bool:
        return self._machine.must_end(self._state)
