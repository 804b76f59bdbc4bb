"""JSON Schema, regex and choice over the vocabulary of a model: llguidance in our words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from llamafast.errors import GrammarError
from llamafast.grammars.constraint import Constraint

_CONTROL_MARK = b"\xff"  # no UTF-8 text holds it; llguidance takes what follows as a control token's name
_LIMITS = LLParserLimits(verbose_errors=False)


class Vocabulary:
    """The tokens of a model as llguidance wants them; made once, it takes a second for 250,000 tokens.

    token_bytes: shape (n_vocab,); control tokens stand there with their names. tokenize: text to ids, without BOS.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        control_ids: Sequence[int],
        eog_ids: Sequence[int],
        tokenize: Callable[[str], list[int]],
    ) -> None:
        self.n_vocab = len(token_bytes)
        self.eog_ids = frozenset(eog_ids)
        self.tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(token_bytes, control_ids, eog_ids, tokenize)),
            n_vocab=len(token_bytes),
            eos_token=list(eog_ids),
        )

    def json_schema(self, text: str, *, lenient: bool = False) -> GuidanceProgram:
        """A program for a JSON Schema. lenient: what cannot be enforced is dropped. Raises GrammarError."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={"lenient": lenient})
        except ValueError as error:
            raise GrammarError(f"the schema is not JSON: {error}") from None
        return self._compile(grammar)

    def regex(self, text: str) -> GuidanceProgram:
        """A program for a regular expression that the whole output matches. Raises GrammarError."""
        return self._compile(LLMatcher.grammar_from_regex(text))

    def choice(self, texts: Sequence[str]) -> GuidanceProgram:
        """A program whose output is one of these texts. Raises GrammarError."""
        if not texts:
            raise GrammarError("there is nothing to choose from")
        words = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self._compile(LLMatcher.grammar_from_lark(f"start: {words}"))

    def _compile(self, grammar: str) -> GuidanceProgram:
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return GuidanceProgram(self, matcher)


class GuidanceProgram:
    """A compiled grammar: immutable, shared by all that run it."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self.vocabulary = vocabulary
        self._matcher = matcher  # stays at its start
        self.warnings = tuple(matcher.get_grammar_warnings())

    def start(self) -> Constraint:
        """A constraint at the beginning of the output."""
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


class _Tokens:
    """The attributes that llguidance reads of a tokenizer."""

    bos_token_id = None

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        control_ids: Sequence[int],
        eog_ids: Sequence[int],
        tokenize: Callable[[str], list[int]],
    ) -> None:
        self.tokens = list(token_bytes)
        for i in control_ids:
            self.tokens[i] = _CONTROL_MARK + self.tokens[i]
        self.special_token_ids = list(control_ids)
        self.eos_token_id = eog_ids[0]
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[int]:
        return self._tokenize(text)
