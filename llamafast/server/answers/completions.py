"""Answers of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from llamafast.request import RequestOutput, TokenLogprob
from llamafast.server.answers.chunks import ChunkFormatter
from llamafast.server.answers.formatter import JsonObject
from llamafast.server.answers.logprobs import finite, json_list
from llamafast.server.answers.options import AnswerHeader, AnswerOptions

# A token's text, its logprob, its alternatives, and where its text starts in the completion.
_Row: TypeAlias = tuple[str, float | None, dict[str, float] | None, int]


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that the answer repeats before its own text.

    text: the prompt's text.
    first_token: the bytes of its first token; needed for logprobs only.
    offsets: where the text of each of its tokens starts, in characters; needed for logprobs only.
    """

    text: str
    first_token: bytes = b""
    offsets: Sequence[int] = ()


class CompletionFormatter(ChunkFormatter):
    """Chunks and whole answers of OpenAI's completions API."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    text_open = b'"text":'
    text_close = b""
    last_payload = b'"text":""'

    def __init__(
        self, header: AnswerHeader, num_choices: int, options: AnswerOptions, echo: Sequence[Echo] = ()
    ) -> None:
        """echo: one per choice; empty for no echo."""
        super().__init__(header, num_choices, options)
        self._echo = echo
        self._texts: list[list[str]] = [[] for _ in range(num_choices)]
        self._kept_logprobs: list[list[TokenLogprob]] = [[] for _ in range(num_choices)]

    def first_payload(self, index: int) -> bytes:
        """The echoed prompt, if any."""
        return self.text_open + orjson.dumps(self._echo[index].text) if self._echo else b""

    def first_logprobs(self, index: int) -> JsonObject | None:
        """The logprobs of the echoed prompt, if the client asked for both."""
        if not self._echo or self._options.num_logprobs is None:
            return None
        return _columns(self._echoed_rows(index))

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """Parallel lists over the tokens. The alternatives of a token include the token itself."""
        return _columns(self._rows(index, entries))

    def write(self, output: RequestOutput, parts: list[bytes]) -> None:
        """Append one chunk if the output has a text or logprobs. OUT parts."""
        if output.logprobs:
            payload = self.text_open + orjson.dumps(output.text) + self.text_close
            parts += self.chunk(output.index, payload, orjson.dumps(self.logprobs(output.index, output.logprobs)))
        elif output.text:
            parts += self.text_chunk(output.index, output.text)

    def keep(self, output: RequestOutput) -> None:
        """Add an output to the text of its choice."""
        self._texts[output.index].append(output.text)
        if output.logprobs:
            self._kept_logprobs[output.index] += output.logprobs

    def choice(self, index: int) -> JsonObject:
        """One choice of a whole answer."""
        text = "".join(self._texts[index])
        rows = self._rows(index, self._kept_logprobs[index])
        if self._echo:
            text = self._echo[index].text + text
            rows = self._echoed_rows(index) + rows
        return {
            "index": index,
            "text": text,
            "logprobs": None if self._options.num_logprobs is None else _columns(rows),
            "finish_reason": self.finish_reason(index),
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
            # Two tokens may have the same text. The likelier one comes first and is kept.
            top.setdefault(_token(token_bytes), finite(logprob))
        return _token(entry.token_bytes), finite(entry.logprob), top, offset


def _columns(rows: Sequence[_Row]) -> JsonObject:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: json_list(row[i] for row in rows) for i, name in enumerate(names)}


def _token(token_bytes: bytes) -> str:
    """The token's text; for a part of a character, its escaped bytes, since this API has no field for bytes."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)
