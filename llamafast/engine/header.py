"""What a model file says about itself, read without its weights."""

from __future__ import annotations

from dataclasses import dataclass

from llamafast._core import Model
from llamafast.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Header:
    """chat_template None: the file has none. makes_embeddings: an encoder, which generates no text."""

    tokenizer: Tokenizer
    chat_template: str | None
    makes_embeddings: bool


def read_header(path: str) -> Header:
    """The vocabulary and metadata of a GGUF file; of a split one, of its first part. Raises ModelLoadError."""
    model = Model(path, vocab_only=True)
    metadata = model.metadata
    causal = metadata.get(f"{metadata.get('general.architecture')}.attention.causal", "true")
    return Header(Tokenizer(model), model.chat_template(), causal == "false" or not model.has_decoder)
