"""A model's vocabulary in the form that grammars need."""

from __future__ import annotations

from functools import partial

from llamafast.grammars.vocabulary import Vocabulary
from llamafast.tokenizer import Tokenizer

_ANCHOR = "\n"


def grammar_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The bytes of all tokens, the names of control tokens, and a function that tokenizes text. Raises GrammarError."""
    names = tokenizer.table(skip_special=False).token_bytes
    control = {i: names[i] for i, data in enumerate(tokenizer.token_bytes) if not data}
    return Vocabulary(tokenizer.token_bytes, control, sorted(tokenizer.eog_ids), partial(_tokenize, tokenizer))


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text after other text, without the space that some vocabularies add before a text."""
    before = tokenizer.encode(_ANCHOR, add_special=False, parse_special=False)
    return tokenizer.encode_segments([(_ANCHOR, False), (text, False)])[len(before) :]
