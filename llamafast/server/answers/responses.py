"""Answers of POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import orjson

from llamafast.request import FinishReason, RequestOutput
from llamafast.responses.tools import ToolOrigin
from llamafast.server.answers.chat import token_logprobs
from llamafast.server.answers.failure import Failure, failure_of
from llamafast.server.answers.formatter import Formatter, JsonObject
from llamafast.server.answers.framing import EVENT_STREAM, KEEPALIVE, Framing
from llamafast.server.answers.items import AnswerItems, ItemDelta
from llamafast.server.answers.openai import DONE, OpenAIDialect, cache_misses
from llamafast.server.answers.options import AnswerOptions
from llamafast.server.answers.progress import AnswerProgress
from llamafast.server.answers.response_events import Frame, ResponseEvents
from llamafast.server.answers.usage import AnswerUsage
from llamafast.server.chat.choice import ReadOptions

# One event per line: the form in which events are kept. A WebSocket sends each line as one frame.
LINES = Framing("application/json", after=b"\n")


class ResponsesDialect(OpenAIDialect):
    """OpenAI's errors; streams are server-sent events with names."""

    framing: ClassVar[Framing] = Framing(
        EVENT_STREAM, event=b"event: %b\n", before=b"data: ", after=b"\n\n", end=DONE, keepalive=KEEPALIVE
    )


RESPONSES = ResponsesDialect()


class ResponseFormatter(Formatter):
    """Events and whole answers of OpenAI's Responses API: the last event of a stream holds the whole answer."""

    dialect = RESPONSES

    def __init__(
        self,
        head: JsonObject,
        origins: Mapping[str, ToolOrigin],
        read_options: ReadOptions,
        options: AnswerOptions,
        *,
        seal: Callable[[str], str] | None = None,
        is_queued: bool = False,
        is_prewarm: bool = False,
        framing: Framing | None = None,
    ) -> None:
        """head: the response object. origins: the tools by the name that the model sees.

        seal: packs reasoning into `encrypted_content`; None: the client does not ask for it. is_queued: the stream says
        first that the response is queued. is_prewarm: the request only fills the cache, so the answer has no items.
        framing: None: server-sent events.
        """
        super().__init__(AnswerProgress(1, options.constraint), framing)
        has_logprobs = options.num_logprobs is not None
        self._items = AnswerItems(read_options, self.progress)
        self._events = ResponseEvents(head, origins, with_logprobs=has_logprobs, seal=seal)
        self._logprobs_of = self._logprobs if has_logprobs else None
        self._options = options
        self._is_queued = is_queued
        self._is_prewarm = is_prewarm
        self._is_concluded = False
        self._openings: dict[bytes, bytes] = {}

    def start(self) -> bytes:
        """response.created, and what follows it before the first item."""
        return self._framed(self._events.start(is_queued=self._is_queued))

    def frames(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The events of one delivery."""
        return self._framed(self._read(outputs))

    def end(self) -> bytes:
        """The event with the whole response, and the end mark."""
        self.conclude()
        return self._framed([self._events.last()]) + self.framing.end

    def failure(self, exc: Exception) -> bytes:
        """response.failed. Over server-sent events an `error` event comes before it, as in OpenAI's streams."""
        failure = failure_of(exc)
        frames = self._fail(failure)
        if self.framing.media_type == EVENT_STREAM:
            frames.append(self._events.error(failure.code, failure.message, failure.param))
        frames.append(self._events.last())
        return self._framed(frames) + self.framing.end

    def add(self, outputs: Sequence[RequestOutput]) -> None:
        """Keep one delivery for body()."""
        self._read(outputs)

    def body(self) -> bytes:
        """The response object."""
        self.conclude()
        return orjson.dumps(self._events.response())

    @property
    def is_large(self) -> bool:
        """Whether there are logprobs."""
        return self._logprobs_of is not None

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the answer so far."""
        return self._items.token_ids

    @property
    def status(self) -> str:
        """OpenAI's word for how far the response is."""
        return self._events.status

    def conclude(self) -> None:
        """End the response. Call it after the last delivery; end() and body() do so, too."""
        if self._is_concluded:
            return
        self._is_concluded = True
        usage = self.progress.usage.total(self._items.reader.num_reasoning_tokens)
        if self._is_prewarm:
            usage = replace(usage, completion_tokens=0)
        is_cut = self.progress.choices[0].finish_reason is FinishReason.LENGTH and not self._is_prewarm
        document = response_usage(usage, cache_info=self._options.cache_info)
        self._events.finish(document, int(time.time()), is_cut=is_cut)

    def cancel(self) -> None:
        """End a response that nobody wants any more. Without effect on one that has ended."""
        if not self._is_concluded:
            self._is_concluded = True
            self._events.read(self._items.abort())
            self._events.cancel()

    def response(self) -> JsonObject:
        """The response object as it is now."""
        return self._events.response()

    def set_not_stored(self) -> None:
        """Say in the response object that it was not stored."""
        self._events.head["store"] = False

    def _fail(self, failure: Failure) -> list[Frame]:
        """End the response with an error. Returns the events that end its items."""
        self._is_concluded = True
        frames = self._events.read(self._items.abort())
        # Clients try again after most codes. A request that can never succeed gets the one for wrong prompts.
        code = "server_error" if failure.type == "server_error" else failure.code or "invalid_prompt"
        self._events.fail(code, failure.message)
        return frames

    def _read(self, outputs: Sequence[RequestOutput]) -> list[Frame]:
        if self._is_prewarm:
            for output in outputs:
                self.progress.note(output)
            return []
        return self._events.read(self._items.read(outputs), self._logprobs_of)

    def _logprobs(self, delta: ItemDelta) -> list[JsonObject]:
        entries = self._items.reader.logprobs[0].of(delta.text, delta.start)
        return list(map(token_logprobs, entries))

    def _framed(self, frames: Sequence[Frame]) -> bytes:
        framing = self.framing
        if len(frames) == 1:  # the path of nearly all tokens
            ((name, document),) = frames
            opening = self._openings.get(name)
            if opening is None:
                opening = self._openings[name] = framing.opening(name)
            return opening + document + framing.after
        return b"".join([framing.frame(name, document) for name, document in frames])


def response_usage(usage: AnswerUsage, *, cache_info: bool = False) -> JsonObject:
    """The usage object of a response. cache_info: also where and why the cached part of the prompt ends."""
    cached = usage.cached_tokens
    details: JsonObject = {"cached_tokens": cached, "cache_write_tokens": usage.prompt_tokens - cached}
    if cache_info:
        details["cache_miss"] = cache_misses(usage)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
