"""The base of the formatters for OpenAI's chat and completions APIs: chunks and whole answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import orjson

from llamafast.request import RequestOutput, TokenLogprob
from llamafast.server.answers.dialect import Dialect
from llamafast.server.answers.formatter import Formatter, JsonObject
from llamafast.server.answers.logprobs import json_list, ranked_tokens
from llamafast.server.answers.openai import OPENAI, usage_object
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.answers.progress import AnswerProgress

_NULL = b"null"


class ChunkFormatter(Formatter):
    """The parts that both APIs share: the envelope of a chunk, the usage, the order of chunks.

    A chunk is opening + payload + ,"logprobs":L,"finish_reason":F} + tail. The openings and the tail are rendered once
    per answer. In most chunks only the JSON string of a text is new.

    id_prefix: the beginning of the answer's id.
    object_name, chunk_object_name: the "object" field of a whole answer and of a chunk.
    text_open, text_close: the bytes of a text payload before and after the JSON string.
    last_payload: the payload of the chunk that holds the finish reason.
    """

    dialect: ClassVar[Dialect] = OPENAI
    id_prefix: ClassVar[str]
    object_name: ClassVar[str]
    chunk_object_name: ClassVar[str]
    text_open: ClassVar[bytes]
    text_close: ClassVar[bytes]
    last_payload: ClassVar[bytes]

    def __init__(self, header: AnswerHeader, num_choices: int, options: AnswerOptions) -> None:
        super().__init__(AnswerProgress(num_choices, options.constraint))
        self._header = header
        self._options = options
        self._choices = self.progress.choices
        self._note = self.progress.note
        self._is_started = [False] * num_choices
        envelope = self.framing.opening(b"") + orjson.dumps(self._head(self.chunk_object_name))[:-1]
        self._openings = [b'%b,"choices":[{"index":%d,' % (envelope, index) for index in range(num_choices)]
        self._text_openings = [opening + self.text_open for opening in self._openings]
        self._tail = (b'],"usage":null}' if options.include_usage else b"]}") + self.framing.after
        # The end of a chunk with only a text. b"" if every chunk has a usage, which makes each end different.
        self._text_closing = b"" if options.continuous_usage else self._new_text_closing()

    @abstractmethod
    def first_payload(self, index: int) -> bytes:
        """The payload of the choice's first chunk; empty for none."""

    @abstractmethod
    def write(self, output: RequestOutput, parts: list[bytes]) -> None:
        """Append the chunks for an output, in pieces. OUT parts."""

    @abstractmethod
    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """The logprobs object of these tokens of a choice."""

    @abstractmethod
    def keep(self, output: RequestOutput) -> None:
        """Take an output for choice()."""

    @abstractmethod
    def choice(self, index: int) -> JsonObject:
        """The choice object of a whole answer."""

    def first_logprobs(self, index: int) -> JsonObject | None:
        """The logprobs object of the choice's first chunk."""
        return None

    def finish_reason(self, index: int) -> str | None:
        """OpenAI's finish reason of a choice; None while it runs."""
        reason = self._choices[index].finish_reason
        return None if reason is None else reason.value

    @property
    def num_reasoning_tokens(self) -> int:
        """Generated tokens that are reasoning."""
        return 0

    def extra_fields(self) -> JsonObject:
        """Further fields of a whole answer."""
        return {}

    def frames(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The chunks of one delivery."""
        parts: list[bytes] = []
        for output in outputs:
            index = output.index
            if not self._is_started[index]:
                self._start_choice(output, parts)
            choice = self._note(output)
            if choice is None:
                break
            if choice.is_over:
                continue
            self.write(output, parts)
            if choice.finish_reason is not None:
                finish = orjson.dumps(self.finish_reason(index))
                parts += self.chunk(index, self.last_payload, finish=finish)
        return b"".join(parts)

    def end(self) -> bytes:
        """The usage chunk, if the client asked for it, and the end mark."""
        if not self._options.include_usage:
            return self.framing.end
        document = {**self._head(self.chunk_object_name), "choices": [], "usage": self._usage()}
        return self.framing.frame(b"", orjson.dumps(document)) + self.framing.end

    def add(self, outputs: Sequence[RequestOutput]) -> None:
        """Keep one delivery for body()."""
        for output in outputs:
            choice = self._note(output)
            if choice is None:
                break
            if output.prompt_logprobs is not None:
                choice.prompt_logprobs = output.prompt_logprobs
            if not choice.is_over:
                self.keep(output)

    def body(self) -> bytes:
        """The whole answer as one JSON document."""
        choices = [self.choice(index) for index in range(len(self._choices))]
        document = {**self._head(self.object_name), "choices": choices, "usage": self._usage(), **self.extra_fields()}
        return orjson.dumps(document)

    @property
    def is_large(self) -> bool:
        """Whether the answer has logprobs, which can be many times as long as its text."""
        return self._options.num_logprobs is not None or self._options.num_prompt_logprobs is not None

    def text_chunk(self, index: int, text: str) -> tuple[bytes, ...]:
        """The pieces of a chunk with a text and without logprobs. Nearly all chunks are of this kind."""
        return self._text_openings[index], orjson.dumps(text), self._text_closing or self._new_text_closing()

    def chunk(self, index: int, payload: bytes, logprobs: bytes = _NULL, finish: bytes = _NULL) -> tuple[bytes, ...]:
        """The pieces of a chunk. The caller joins the pieces of many chunks at once."""
        return self._openings[index], payload, self._closing(logprobs, finish)

    def prompt_logprobs(self, index: int) -> JsonObject:
        """vLLM's field `prompt_logprobs` for the prompt of a choice; empty if the client did not ask for it."""
        num_top = self._options.num_prompt_logprobs
        if num_top is None:
            return {}
        entries = self._choices[index].prompt_logprobs
        return {"prompt_logprobs": json_list(entry and ranked_tokens(entry, num_top) for entry in entries)}

    def _start_choice(self, output: RequestOutput, parts: list[bytes]) -> None:
        """OUT parts: the choice's first chunk, if it has one."""
        index = output.index
        self._is_started[index] = True
        self._choices[index].prompt_logprobs = output.prompt_logprobs or ()
        if payload := self.first_payload(index):
            parts += self.chunk(index, payload, orjson.dumps(self.first_logprobs(index)))

    def _closing(self, logprobs: bytes = _NULL, finish: bytes = _NULL) -> bytes:
        """The bytes of a chunk after its payload."""
        tail = self._tail
        if self._options.continuous_usage:
            usage = self.progress.usage.running(self._options.prompt_tokens, self.num_reasoning_tokens)
            tail = b'],"usage":%b}%b' % (orjson.dumps(usage_object(usage, self._options)), self.framing.after)
        return b',"logprobs":%b,"finish_reason":%b}%b' % (logprobs, finish, tail)

    def _new_text_closing(self) -> bytes:
        return self.text_close + self._closing()

    def _head(self, object_name: str) -> JsonObject:
        header = self._header
        return {
            "id": header.id,
            "object": object_name,
            "created": header.created,
            "model": header.model,
            "system_fingerprint": header.system_fingerprint,
        }

    def _usage(self) -> JsonObject:
        usage = self.progress.usage.total(self.num_reasoning_tokens)
        return usage_object(usage, self._options)
