"""JSON Schema, regex and choice: llguidance in our words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint, Program
from llamafast.grammars.json_schema import WHITESPACE, prepare_schema
from llamafast.grammars.vocabulary import Vocabulary
from llamafast.json_schema.limits import check_regex
from llamafast.json_schema.prepare import loosened

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_LIMITS = LLParserLimits(verbose_errors=False)
_NUM_TRIAL_STEPS = 16
_MAX_MESSAGE = 400


def compile_json_schema(vocabulary: Vocabulary, text: str, *, lenient: bool = False) -> GuidanceProgram:
    """A program for a JSON Schema. lenient: what cannot be enforced is dropped. Raises GrammarError."""
    schema, dropped = prepare_schema(text, strict=not lenient)
    try:
        program = _program_of_schema(vocabulary, schema, lenient)
    except GrammarError:
        loose, missing = loosened(json.loads(schema))
        if not lenient or not missing:
            raise
        program = _program_of_schema(vocabulary, json.dumps(loose), lenient)
        dropped += missing
    program.warnings += tuple(dropped)
    return program


def _program_of_schema(vocabulary: Vocabulary, schema: str, lenient: bool) -> GuidanceProgram:
    options: JsonCompileOptions = {
        "lenient": lenient,
        "coerce_one_of": lenient,
        "whitespace_flexible": True,
        "whitespace_pattern": WHITESPACE,
    }
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=options)
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
        raise GrammarError("there is nothing to choose from")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise GrammarError("a choice is not valid Unicode: lone surrogate")
    words = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark(f"start: {words}"))


class GuidanceProgram(Program):
    """grammar: in one of llguidance's own formats. Raises GrammarError."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        matcher = LLMatcher(vocabulary.guidance, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_short(matcher.get_error()))
        self.vocabulary = vocabulary
        self.warnings = tuple(matcher.get_grammar_warnings())
        self._matcher = matcher  # stays at its start
        self._try_out()

    def start(self) -> Constraint:
        return _GuidanceConstraint(self.vocabulary, self._matcher.deep_copy())

    def _try_out(self) -> None:
        """Walk a little way: what allows nothing, or is too complex to follow, shows here rather than in the engine."""
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
    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._eog_ids = vocabulary.eog_ids
        self._matcher = matcher

    def accept(self, token_id: int) -> bool:
        matcher = self._matcher
        if token_id in self._eog_ids:
            return matcher.is_accepting()
        if matcher.try_consume_tokens([token_id]):
            return True
        self._check()
        return False

    def mask(self) -> bytes:
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def forced(self, min_tokens: int = 1) -> list[int]:
        # The bytes are found faster, and there are at least as many of them.
        if len(self._matcher.compute_ff_bytes()) < min_tokens:
            return []
        token_ids = self._matcher.compute_ff_tokens()
        return token_ids if len(token_ids) >= min_tokens else []

    @property
    def is_finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _check(self) -> None:
        if self._matcher.is_error():
            if "NoExtension" in self._matcher.get_error():
                raise GrammarError("nothing may come next: the grammar allows no text from here")
            raise GrammarError(f"the grammar is too complex: {_short(self._matcher.get_error())}")


def _short(message: str) -> str:
    """An error without the text of the whole grammar."""
    half = _MAX_MESSAGE // 2
    return message if len(message) <= _MAX_MESSAGE else f"{message[:half]} ... {message[-half:]}"
