"""GuidanceProgram: grammars that llguidance runs (JSON Schema, regex, choice, Lark), with cost limits per grammar and
step.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from llguidance import LLMatcher, LLParserLimits

from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint, CpuAccount, Program
from llamafast.grammars.llguidance_schema import compilable, compile_options, parse_schema
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.json_schema.limits import check_regex
from llamafast.json_schema.simplify import without_fragile_keywords

T = TypeVar("T")
_log = logging.getLogger(__name__)

STACK_BYTES = 64 * 1024 * 1024  # address space of a compiling thread: llguidance recurses once per level

# The fuel of a step is 4 to 40 ms, whatever the pattern. A state takes 1 to 15 KB per sequence. A string with a
# maxLength takes one state per byte, and some more after a mask.
_LIMITS = LLParserLimits(verbose_errors=False, step_lexer_fuel=200_000, max_lexer_states=131_072)
_REFUEL_TOKENS = 32
_NUM_TRIAL_STEPS = 16
_MAX_MESSAGE = 400
# llguidance's messages about keywords that it does not enforce, in a schema alone or inside Lark.
_UNENFORCED = re.compile(
    r"(?:^|JSON schema: )"
    r"(?:Unimplemented keys: (\[[^\]\n]*\])|(oneOf) (?:constraints are|not fully)|min/maxProperties only)"
)
_COUNTS = "minProperties or maxProperties beside properties that are not required"


def compile_json_schema(vocabulary: Vocabulary, text: str, *, lenient: bool = False) -> GuidanceProgram:
    """A program for a JSON Schema. lenient: keywords that cannot be enforced are dropped. Raises GrammarError."""
    schema, dropped = compilable(parse_schema(text), strict=not lenient)
    try:
        program = _program_of_schema(vocabulary, schema, lenient)
    except GrammarError:
        loose, missing = without_fragile_keywords(schema)
        if not lenient or not missing:
            raise
        program = _program_of_schema(vocabulary, loose, lenient)
        dropped += missing
    program.warnings += tuple(dropped)
    return program


def _program_of_schema(vocabulary: Vocabulary, schema: object, lenient: bool) -> GuidanceProgram:
    options = compile_options(strict=not lenient)
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    return GuidanceProgram(vocabulary, grammar)


def compile_regex(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for a regular expression that the whole output matches. Raises GrammarError."""
    check_regex(text)
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_regex(text))


def compile_choice(vocabulary: Vocabulary, texts: Sequence[str]) -> GuidanceProgram:
    """A program whose output is one of these texts. Raises GrammarError."""
    if not texts:
        raise GrammarError("the list of choices is empty")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise GrammarError("a choice is not valid Unicode: lone surrogate")
    words = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    # One terminal. Several would be compared with each other at every token.
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {words}"))


def matches_any(vocabulary: Vocabulary, grammar: str) -> bool:
    """Whether a grammar compiles and matches some text."""
    matcher = _open(vocabulary, grammar)
    if not matcher.is_error():
        _ask(matcher.compute_bitmask)
    return not matcher.is_error()


class GuidanceProgram(Program):
    """A program for a grammar in one of llguidance's formats. Raises GrammarError."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        matcher = _open(vocabulary, grammar)
        if matcher.is_error():
            message = matcher.get_error()
            names = ", ".join(_keywords(message))
            raise GrammarError(f"{names} cannot be enforced" if names else _short(message))
        self.vocabulary = vocabulary
        self.grammar = grammar
        warnings = matcher.get_grammar_warnings()
        self.warnings = tuple(dict.fromkeys(name for text in warnings for name in _keywords(text) or [_short(text)]))
        self._matcher = matcher  # stays at its start
        self._try_out()

    def start(self, account: CpuAccount | None = None) -> Constraint:
        return _GuidanceConstraint(self.vocabulary, _ask(self._matcher.deep_copy), account or CpuAccount())

    def _try_out(self) -> None:
        """Take some steps, so that grammars that allow nothing or are too complex fail here, and not in the engine."""
        constraint = self.start()
        ends = self.vocabulary.eog_ids
        for _ in range(_NUM_TRIAL_STEPS):
            bits = int.from_bytes(constraint.mask(), "little")
            while bits and (token_id := (bits & -bits).bit_length() - 1) in ends:
                bits &= bits - 1
            if not bits:
                return
            constraint.accept(token_id)


class _GuidanceConstraint(Constraint):
    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher, account: CpuAccount) -> None:
        self._eog_ids = vocabulary.eog_ids
        self._matcher = matcher
        self._account = account
        self._num_since_mask = 0

    def accept(self, token_id: int) -> bool:
        matcher = self._matcher
        if token_id in self._eog_ids:
            return _ask(matcher.is_accepting)
        if self._num_since_mask >= _REFUEL_TOKENS:
            self.mask()  # only a mask gives the lexer new fuel, and a model that needs no mask would run out of it
        if _ask(matcher.try_consume_tokens, [token_id]):
            self._num_since_mask += 1
            self._account.earn()
            return True
        self._check()
        return False

    def mask(self) -> bytes:
        mask = self._account.run(lambda: _ask(self._matcher.compute_bitmask))
        self._check()
        self._num_since_mask = 0
        return mask

    def forced(self, min_tokens: int = 1) -> list[int]:
        # Bytes are found faster, and there are at least as many of them.
        if len(_ask(self._matcher.compute_ff_bytes)) < min_tokens:
            return []
        token_ids = _ask(self._matcher.compute_ff_tokens)
        return token_ids if len(token_ids) >= min_tokens else []

    @property
    def is_finished(self) -> bool:
        try:
            return _ask(self._matcher.is_stopped) and not _ask(self._matcher.is_error)
        except GrammarError:
            return False  # the next mask raises it too

    def _check(self) -> None:
        if _ask(self._matcher.is_error):
            message = _ask(self._matcher.get_error)
            if "NoExtension" in message:
                raise GrammarError("the grammar allows no further text here")
            raise GrammarError(f"the grammar is too complex: {_short(message)}")


def _open(vocabulary: Vocabulary, grammar: str) -> LLMatcher:
    return _ask(LLMatcher, vocabulary.guidance, vocabulary.localized(grammar), log_level=0, limits=_LIMITS)


def _ask(call: Callable[..., T], *args: object, **options: object) -> T:
    """The result of a call of llguidance. All it raises becomes a GrammarError. A Rust panic is a BaseException."""
    try:
        return call(*args, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        raise GrammarError(f"the grammar is too complex: {_short(str(error) or type(error).__name__)}") from error
    except BaseException as error:
        _log.warning("llguidance panicked: %s", error)
        raise GrammarError("the grammar is too complex: its compiler failed") from error


def _keywords(message: str) -> list[str]:
    """The JSON Schema keywords that llguidance does not enforce, by its message. Empty: the message says something
    else.
    """
    said = _UNENFORCED.search(message)
    if said is None:
        return []
    return [str(name) for name in json.loads(said[1])] if said[1] else ["oneOf"] if said[2] else [_COUNTS]


def _short(message: str) -> str:
    """An error message without the text of the whole grammar."""
    half = _MAX_MESSAGE // 2
    return message if len(message) <= _MAX_MESSAGE else f"{message[:half]} ... {message[-half:]}"
