"""Vocabularies for the tests of grammars."""

from __future__ import annotations

from pathlib import Path

import llamafast
from llamafast._core import Model
from llamafast.grammars.vocabulary import Vocabulary

BUILT_IN = str(Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf")
END = 256


def bytes_vocabulary(*control: str) -> Vocabulary:
    """Token b is byte b, token 256 ends the output. Control tokens follow."""
    token_bytes = [*(bytes([b]) for b in range(256)), b"", *(b"" for _ in control)]
    names = {END: b"<end>"} | {END + 1 + i: name.encode() for i, name in enumerate(control)}
    return Vocabulary(token_bytes, names, [END], lambda text: list(text.encode()))


def text_of(token_ids: list[int]) -> str:
    """The text of tokens of bytes_vocabulary()."""
    return bytes(token_ids).decode()


def model_vocabulary(model: Model) -> Vocabulary:
    """The vocabulary of a model."""
    token_bytes = [model.token_bytes(i) for i in range(model.n_vocab)]
    names = {i: model.token_bytes(i, True) for i in range(model.n_vocab) if not token_bytes[i]}
    ends = [i for i in range(model.n_vocab) if model.is_eog(i)]
    return Vocabulary(token_bytes, names, ends, lambda text: model.tokenize(text, False, False))
