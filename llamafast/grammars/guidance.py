"""JSON Schema, regex and choice: llguidance in our words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits

from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint, Program
from llamafast.grammars.vocabulary import Vocabulary

_LIMITS = LLParserLimits(verbose_errors=False)


def compile_json_schema(vocabulary: Vocabulary, text: str, *, lenient: bool = False) -> GuidanceProgram:
    """A program for a JSON Schema. lenient: what cannot be enforced is dropped. Raises GrammarError."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(text, overrides={"lenient": lenient})
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    return GuidanceProgram(vocabulary, grammar)


def compile_regex(vocabulary: Vocabulary, text: str) -> GuidanceProgram:
    """A program for a regular expression that the whole output matches. Raises GrammarError."""
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_regex(text))


def compile_choice(vocabulary: Vocabulary, texts: Sequence[str]) -> GuidanceProgram:
    """A program whose output is one of these texts. Raises GrammarError."""
    if not texts:
        raise GrammarError("there is nothing to choose from")
    words = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return GuidanceProgram(vocabulary, LLMatcher.grammar_from_lark(f"start: {words}"))


class GuidanceProgram(Program):
    """grammar: in one of llguidance's own formats. Raises GrammarError."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        matcher = LLMatcher(vocabulary.guidance, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        self.vocabulary = vocabulary
        self.warnings = tuple(matcher.get_grammar_warnings())
        self._matcher = matcher  # stays at its start

    def start(self) -> Constraint:
        return _GuidanceConstraint(self.vocabulary, self._matcher.deep_copy())


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

    def forced(self) -> list[int]:
        return self._matcher.compute_ff_tokens()

    @property
    def is_finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"the grammar went beyond a limit: {self._matcher.get_error()}")
