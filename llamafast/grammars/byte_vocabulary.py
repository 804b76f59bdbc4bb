"""ByteVocabulary: the smallest vocabulary, with which grammars are tried out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, cached_property

from llguidance import LLTokenizer

from llamafast.grammars.vocabulary import Vocabulary

_END = 256
_NUM_CONTROLS = 256
_TOKEN_BYTES = [*(bytes([b]) for b in range(_END)), *(b"" for _ in range(1 + _NUM_CONTROLS))]
_NAMES = {i: b"<%d>" % i for i in range(_END, len(_TOKEN_BYTES))}
_CONTROL = re.compile(r"<\[(\d+)\]>")


class ByteVocabulary(Vocabulary):
    """Bytes, and the control tokens of a model under other ids. A grammar that compiles over bytes compiles over
    tokens.
    """

    def __init__(self, control_ids: Mapping[str, int]) -> None:
        super().__init__(_TOKEN_BYTES, _NAMES, [_END], _tokenize)
        self._control_ids = dict(control_ids)

    @cached_property
    def control_ids(self) -> dict[str, int]:
        return self._control_ids

    def localized(self, grammar: str) -> str:
        if not self._control_ids:
            return grammar
        return _CONTROL.sub(lambda match: f"<[{_END + 1 + int(match[1]) % _NUM_CONTROLS}]>", grammar)

    @cached_property
    def guidance(self) -> LLTokenizer:
        return byte_tokenizer()


@cache
def byte_tokenizer() -> LLTokenizer:
    """The tokenizer of this vocabulary for llguidance. It is made once per process."""
    return Vocabulary(_TOKEN_BYTES, _NAMES, [_END], _tokenize).guidance


def _tokenize(text: str) -> list[int]:
    return list(text.encode())
