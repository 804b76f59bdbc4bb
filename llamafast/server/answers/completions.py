"""Answers of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from llamafast.request import TokenLogprob
from llamafast.server.answers.formatter import Formatter, Header, JsonObject, Options, finite, json_list

# A token, its logprob, its alternatives, where its text starts.
_Row: TypeAlias = tuple[str, float | None, dict[str, float] | None, int]


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is given back. Where its logprobs are too: the first token, and where each token's text starts."""

    text: str
    first_token: bytes = b""
    offsets: Sequence[int] = ()


class CompletionFormatter(Formatter):
    """Chunks and whole answers in OpenAI's completions shape. echo: per choice, the prompt before its text."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    text_open = b'"text":'
    text_close = b""
    last_payload = b'"text":""'

    def __init__(self, header: Header, num_choices: int, options: Options, echo: Sequence[Echo] = ()) -> None:
        super().__init__(header, num_choices, options)
        self._echo = echo

    def first_payload(self, index: int) -> bytes:
        """The echoed prompt, if any."""
        return self.text_open + orjson.dumps(self._echo[index].text) if self._echo else b""

    def first_logprobs(self, index: int) -> JsonObject | None:
        """Those of the echoed prompt, if both were asked for."""
        if not self._echo or self._options.num_logprobs is None:
            return None
        return _columns(self._echoed_rows(index))

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """Parallel lists over the tokens; each token's alternatives hold the token itself too."""
        return _columns(self._rows(index, entries))

    def choice(self, index: int, finish: str | None) -> JsonObject:
        """One choice of a whole answer."""
        text = "".join(self._choices[index].texts)
        rows = self._rows(index, self._choices[index].logprobs)
        if self._echo:
            text = self._echo[index].text + text
            rows = self._echoed_rows(index) + rows
        return {
            "index": index,
            "text": text,
            "logprobs": None if self._options.num_logprobs is None else _columns(rows),
            "finish_reason": finish,
            **self.prompt_logprobs(index),
        }

    def _rows(self, index: int, entries: Sequence[TokenLogprob]) -> list[_Row]:
        start = len(self._echo[index].text) if self._echo else 0
        return [self._row(entry, start + entry.text_offset) for entry in entries]

    def _echoed_rows(self, index: int) -> list[_Row]:
        echo = self._echo[index]
        entries = self._choices[index].prompt_logprobs
        return [
            (_token(echo.first_token), None, None, offset) if entry is None else self._row(entry, offset)
            for entry, offset in zip(entries, echo.offsets, strict=False)
        ]

    def _row(self, entry: TokenLogprob, offset: int) -> _Row:
        top = {_token(entry.token_bytes): finite(entry.logprob)}
        for _, logprob, token_bytes in entry.top[: self._options.num_logprobs]:
            # Two tokens may have one text: the likelier comes first and stays.
            top.setdefault(_token(token_bytes), finite(logprob))
        return _token(entry.token_bytes), finite(entry.logprob), top, offset


def _columns(rows: Sequence[_Row]) -> JsonObject:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: json_list(row[i] for row in rows) for i, name in enumerate(names)}


def _token(token_bytes: bytes) -> str:
    """The token's text, or its bytes where it is only a part of a character: this shape has no bytes field."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)
