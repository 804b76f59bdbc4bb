"""DRY's sequence breakers: which tokens of a vocabulary hold one, whole or in pieces."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

from llamafast._sampling import DryBreakers
from llamafast.tokenizer import Tokenizer

# No token that is text has this byte, so a search over all tokens in a row finds nothing across two of them.
_BETWEEN = b"\xff"
_MAX_CACHED = 32
_MAX_TAIL = 20

_cache: WeakKeyDictionary[Tokenizer, _Known] = WeakKeyDictionary()


def dry_breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> DryBreakers:
    """The breakers as token ids; the last few sets are kept per tokenizer. Empty texts break nothing.

    A text is found where one token holds it, or where a token ends with its beginning and the usual tokens of the rest
    follow (at most 20).
    """
    known = _cache.get(tokenizer)
    if known is None:
        known = _cache[tokenizer] = _Known(_Vocabulary(tokenizer.token_bytes), {})
    if texts not in known.breakers:
        if len(known.breakers) >= _MAX_CACHED:
            del known.breakers[next(iter(known.breakers))]
        known.breakers[texts] = _resolve(tokenizer, known.vocabulary, texts)
    return known.breakers[texts]


def _resolve(tokenizer: Tokenizer, vocabulary: _Vocabulary, texts: tuple[str, ...]) -> DryBreakers:
    single: set[int] = set()
    pieces: list[tuple[list[int], list[int]]] = []
    for text in filter(None, texts):
        single.update(vocabulary.holding(text.encode()))
        for i in range(1, len(text)):
            heads = list(vocabulary.holding(text[:i].encode() + _BETWEEN))
            tail = tokenizer.encode(text[i:], add_special=False, parse_special=False)[:_MAX_TAIL]
            if heads and tail:
                pieces.append((heads, tail))
    return DryBreakers(tokenizer.n_vocab, single, pieces)


class _Vocabulary:
    """All tokens' bytes in a row: one search through all of them at the speed of bytes.find."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self.joined = _BETWEEN.join(token_bytes) + _BETWEEN
        self.starts = array("q", [0, *accumulate(len(data) + 1 for data in token_bytes)])

    def holding(self, data: bytes) -> Iterator[int]:
        """Ids of the tokens that hold data, ascending."""
        at = self.joined.find(data)
        while at >= 0:
            token_id = bisect_right(self.starts, at) - 1
            yield token_id
            at = self.joined.find(data, self.starts[token_id + 1])


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of one tokenizer."""

    vocabulary: _Vocabulary
    breakers: dict[tuple[str, ...], DryBreakers]
