"""The vocabulary of a model, as grammars see it."""

from __future__ import annotations

from functools import partial

from llamafast.grammars.vocabulary import Vocabulary
from llamafast.tokenizer import Tokenizer

_ANCHOR = "\n"


def grammar_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokens' bytes, the names of control tokens, and how text is tokenized. Raises GrammarError."""
    names = tokenizer.table(skip_special=False).token_bytes
    control = {i: names[i] for i, data in enumerate(tokenizer.token_bytes) if not data}
    return Vocabulary(tokenizer.token_bytes, control, sorted(tokenizer.eog_ids), partial(_tokenize, tokenizer))


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """As it stands behind other text: a vocabulary that puts a space before a text puts none here."""
    before = tokenizer.encode(_ANCHOR, add_special=False, parse_special=False)
    return tokenizer.encode_segments([(_ANCHOR, False), (text, False)])[len(before) :]
