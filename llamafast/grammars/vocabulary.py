"""Vocabulary: the tokens of a model as grammars use them: bytes, end tokens and control tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property

from llguidance import LLTokenizer, TokenizerWrapper

from llamafast._grammar import TokenOrder
from llamafast.errors import GrammarError

_CONTROL_MARK = b"\xff"  # UTF-8 does not contain it; llguidance reads what follows as the name of a control token


class Vocabulary:
    """The tokens of a model. It is made once per model. Derived data takes up to a second per 250,000 tokens, at first
    use.

    token_bytes: shape (n_vocab,), the bytes that each token writes.
    names: the control tokens, which write no text, by id.
    eog_ids: the tokens that end a generation.
    tokenize: text to token ids, without added tokens.
    Raises GrammarError if no token ends a generation.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        names: dict[int, bytes],
        eog_ids: Sequence[int],
        tokenize: Callable[[str], list[int]],
    ) -> None:
        if not eog_ids:
            raise GrammarError("this model has no end-of-generation token, so its output cannot be constrained")
        self.n_vocab = len(token_bytes)
        self.eog_ids = frozenset(eog_ids)
        self.tokenize = tokenize
        self._token_bytes = [b"" if i in self.eog_ids else data for i, data in enumerate(token_bytes)]
        self._names = {**{i: token_bytes[i] for i in eog_ids}, **names}

    @cached_property
    def order(self) -> TokenOrder:
        return TokenOrder(self._token_bytes, sorted(self.eog_ids))

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """Control tokens by name."""
        return {name.decode("utf-8", "replace"): i for i, name in sorted(self._names.items(), reverse=True) if name}

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """A pattern whose first group matches the name of a control token, the longest if several match. None: there
        are none.
        """
        names = sorted(self.control_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def localized(self, grammar: str) -> str:
        """A grammar for llguidance, with the ids of control tokens that `guidance` uses."""
        return grammar

    @cached_property
    def guidance(self) -> LLTokenizer:
        tokens = list(self._token_bytes)
        for i, name in self._names.items():
            tokens[i] = _CONTROL_MARK + name
        eog_ids = sorted(self.eog_ids)
        wrapper = TokenizerWrapper(_Tokens(tokens, sorted(self._names), eog_ids[0], self.tokenize))
        return LLTokenizer(wrapper, n_vocab=self.n_vocab, eos_token=eog_ids)


class _Tokens:
    """The attributes that llguidance reads from a tokenizer."""

    bos_token_id = None

    def __init__(
        self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int, tokenize: Callable[[str], list[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[int]:
        return self._tokenize(text)
