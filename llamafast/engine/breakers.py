"""DRY's sequence breakers: finds the tokens of a vocabulary that contain a breaker or a part of one."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from weakref import WeakKeyDictionary

from llamafast._sampling import DryBreakers
from llamafast.tokenizer import Tokenizer

# Separates the joined tokens. No text token contains this byte, so a search finds no match across two tokens.
_BETWEEN = b"\xff"
_MAX_CACHED = 32
_MAX_TAIL = 20

_cache: WeakKeyDictionary[Tokenizer, _Known] = WeakKeyDictionary()
_lock = Lock()


def dry_breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> DryBreakers:
    """The breakers as token ids. Empty texts are ignored. Each tokenizer caches its last 32 sets of texts.

    A text matches a token that contains it, and also a token that ends with the beginning of the text, if the tokens of
    the rest follow (at most 20). Thread-safe. New texts take up to 0.2 s, so do not call it on the engine's thread.
    """
    with _lock:
        known = _cache.get(tokenizer)
        found = None if known is None else known.breakers.get(texts)
    if found is not None:
        return found
    known = known or _Known(_Vocabulary(tokenizer.token_bytes), {})
    found = _resolve(tokenizer, known.vocabulary, texts)
    with _lock:
        known = _cache.setdefault(tokenizer, known)
        if len(known.breakers) >= _MAX_CACHED:
            del known.breakers[next(iter(known.breakers))]
        return known.breakers.setdefault(texts, found)


def has_breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> bool:
    """Whether dry_breakers() has these texts in its cache."""
    with _lock:
        known = _cache.get(tokenizer)
        return known is not None and texts in known.breakers


def _resolve(tokenizer: Tokenizer, vocabulary: _Vocabulary, texts: tuple[str, ...]) -> DryBreakers:
    single: set[int] = set()
    pieces: list[tuple[list[int], list[int]]] = []
    for text in filter(None, texts):
        single.update(vocabulary.holding(text.encode()))
        for i in range(1, len(text)):
            heads = vocabulary.ending(text[:i].encode())
            tail = tokenizer.encode(text[i:], add_special=False, parse_special=False)[:_MAX_TAIL]
            if heads and tail:
                pieces.append((heads, tail))
    return DryBreakers(tokenizer.n_vocab, single, pieces)


class _Vocabulary:
    """The bytes of all tokens, joined, so that one bytes.find searches all of them."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self._all = _Row(token_bytes, range(len(token_bytes)))
        ids: dict[int, list[int]] = {}
        for token_id, data in enumerate(token_bytes):
            if data:
                ids.setdefault(data[-1], []).append(token_id)
        self._by_last_byte = {byte: _Row([token_bytes[i] for i in of_byte], of_byte) for byte, of_byte in ids.items()}

    def holding(self, data: bytes) -> list[int]:
        """Ids of the tokens that contain data, ascending."""
        return list(self._all.holding(data))

    def ending(self, data: bytes) -> list[int]:
        """Ids of the tokens that end with data, ascending."""
        row = self._by_last_byte.get(data[-1])
        return [] if row is None else list(row.holding(data + _BETWEEN))


class _Row:
    """Some tokens, joined. Token ids[i] has the bytes token_bytes[i]."""

    def __init__(self, token_bytes: list[bytes], ids: Sequence[int]) -> None:
        self._ids = ids
        self._joined = _BETWEEN.join(token_bytes) + _BETWEEN
        self._starts = array("q", [0, *accumulate(len(data) + 1 for data in token_bytes)])

    def holding(self, data: bytes) -> Iterator[int]:
        """Ids of the tokens that contain data; the bytes of each token are followed by one _BETWEEN."""
        at = self._joined.find(data)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            yield self._ids[place]
            at = self._joined.find(data, self._starts[place + 1])


@dataclass(frozen=True, slots=True)
class _Known:
    """The cache entry of one tokenizer.

    vocabulary: the bytes of its tokens.
    breakers: results by texts.
    """

    vocabulary: _Vocabulary
    breakers: dict[tuple[str, ...], DryBreakers]
