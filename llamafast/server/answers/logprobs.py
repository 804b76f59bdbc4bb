"""Logprobs: those of the visible text, and their JSON."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import orjson

from llamafast.request import TokenLogprob
from llamafast.server.answers.formatter import JsonObject

# The number of list items that orjson renders in one call, without a pause for other threads.
_PIECE = 512

# JSON has no -inf; OpenAI's and vLLM's clients know this value.
_LEAST_LOGPROB = -9999.0


class ContentLogprobs:
    """Keeps the logprobs of one choice's tokens until the parser has decided whether their text is content.

    waiting: logprobs of tokens that the parser has not decided on, in order.
    """

    __slots__ = ("_end", "waiting")

    def __init__(self) -> None:
        self.waiting: list[TokenLogprob] = []
        self._end = 0  # the end of the content so far in the choice's text, in characters

    def of(self, text: str, start: int) -> list[TokenLogprob]:
        """Take the logprobs of a piece of the content, which starts at `start`; those before it are dropped.

        A token with text in two pieces belongs to the first one.
        """
        waiting = self.waiting
        self._end = end = start + len(text)
        entries = [entry for entry in waiting if start <= entry.text_offset < end]
        self.waiting = [entry for entry in waiting if entry.text_offset >= end]
        num_before = next((i for i, entry in enumerate(waiting) if entry.text_offset >= start), len(waiting))
        if num_before:  # the parser may have cut the white space at the beginning of the token
            last = waiting[num_before - 1]
            after = waiting[num_before].text_offset if num_before < len(waiting) else last.text_offset + _length(last)
            if after > start:
                entries.insert(0, last)
        return entries

    def rest(self, num_chars: int) -> list[TokenLogprob]:
        """Take the logprobs of tokens without text at the end, if the content ends there too.

        num_chars: the length of the choice's text.
        """
        entries, self.waiting = self.waiting, []
        return entries if self._end == num_chars else []


def ranked_tokens(entry: TokenLogprob, num_top: int) -> JsonObject:
    """vLLM's object for one token of a prompt: by token id, the token itself first, then num_top alternatives."""
    tokens = [(entry.token_id, entry.logprob, entry.rank, entry.token_bytes)]
    tokens += [(token_id, logprob, i, name) for i, (token_id, logprob, name) in enumerate(entry.top[:num_top], 1)]
    return {
        str(token_id): {
            "logprob": finite(logprob),
            "rank": rank,
            "decoded_token": name.decode("utf-8", "replace"),
        }
        for token_id, logprob, rank, name in tokens
    }


def json_list(items: Iterable[object]) -> list[object] | orjson.Fragment:
    """A list for orjson. A long list is rendered piece by piece: orjson keeps the GIL while it runs."""
    left, pieces = iter(items), list[bytes]()
    piece = list(islice(left, _PIECE))
    if len(piece) < _PIECE:
        return piece
    while piece:
        pieces.append(orjson.dumps(piece)[1:-1])
        piece = list(islice(left, _PIECE))
    return orjson.Fragment(b"[" + b",".join(pieces) + b"]")


def finite(logprob: float) -> float:
    """The logprob, with a finite number in place of -inf."""
    return max(logprob, _LEAST_LOGPROB)


def _length(entry: TokenLogprob) -> int:
    return len(entry.token_bytes.decode("utf-8", "replace"))
