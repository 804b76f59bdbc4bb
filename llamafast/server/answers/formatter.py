"""From engine outputs to the bytes of one answer, streamed or whole: what both completion APIs share."""

from __future__ import annotations

import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import orjson

from llamafast.errors import DecodeError, GrammarError, ShuttingDownError
from llamafast.request import FinishReason, RequestOutput, TokenLogprob, Usage

logger = logging.getLogger("llamafast.server")

JsonObject: TypeAlias = dict[str, object]

_PIECE = 512
PromptLogprobs: TypeAlias = Sequence[TokenLogprob | None]

DONE = b"data: [DONE]\n\n"

# JSON has no -inf; OpenAI's and vLLM's clients know this value.
_LEAST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class Header:
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: str, system_fingerprint: str) -> Header:
        """A fresh id, at the present second."""
        return cls(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model, system_fingerprint)


@dataclass(frozen=True, slots=True)
class Options:
    """What the client wants to see, and the prompt tokens of all prompts.

    num_logprobs and num_prompt_logprobs: alternatives per token; None is no logprobs at all. constraint: the path of
    the field that constrains the output. cache_info: the usage says why no more of a prompt came from the cache.
    """

    include_usage: bool = False
    continuous_usage: bool = False
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    prompt_tokens: int = 0
    constraint: str | None = None
    cache_info: bool = False


class _Choice:
    """What one choice has said so far. texts and logprobs grow only where the answer is sent whole.

    is_over: it has ended here, and what the engine still computed of it is not shown.
    """

    __slots__ = ("finish_reason", "is_over", "logprobs", "opening", "prompt_logprobs", "started", "texts")

    def __init__(self, opening: bytes) -> None:
        self.opening = opening  # of each of its chunks, up to the payload
        self.started = False
        self.is_over = False
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: PromptLogprobs = []
        self.finish_reason: str | None = None


class Formatter(ABC):
    """Formats the outputs of one HTTP request.

    Streamed: events() for every delivery, then end(). Whole: add() for every delivery, then body(). `error` is set
    when the engine gave the request up; nothing may follow it. to_finish: choices that ended here and not yet in the
    engine; whoever tells the engine empties it.
    """

    id_prefix: str
    object_name: str
    chunk_object_name: str
    text_open: bytes  # what stands around the JSON string of a delta
    text_close: bytes
    last_payload: bytes  # the payload of the chunk that holds the finish reason

    def __init__(self, header: Header, num_choices: int, options: Options) -> None:
        self.error: Exception | None = None
        self.to_finish: list[int] = []
        self._header = header
        self._options = options
        self._num_tokens = 0
        self._num_unwanted = 0  # tokens computed behind the end of a choice
        self._usages: dict[int, Usage] = {}  # by a choice of the prompt
        # A chunk is opening + payload + ,"logprobs":L,"finish_reason":F} + tail: only payload, L and F are made anew.
        envelope = orjson.dumps(self._head(self.chunk_object_name))[:-1]
        self._choices = [
            _Choice(b'data: %b,"choices":[{"index":%d,' % (envelope, index)) for index in range(num_choices)
        ]
        self._tail = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"

    @abstractmethod
    def first_payload(self, index: int) -> bytes:
        """The payload of the choice's first chunk; empty for none."""

    @abstractmethod
    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """The logprobs object of these tokens of a choice."""

    @abstractmethod
    def choice(self, index: int, finish: str | None) -> JsonObject:
        """The choice object of a whole answer."""

    def first_logprobs(self, index: int) -> JsonObject | None:
        """The logprobs object of the choice's first chunk."""
        return None

    def deltas(self, output: RequestOutput) -> Sequence[tuple[bytes, bytes]]:
        """The payload and the logprobs of each chunk that an output makes."""
        if not (output.text or output.logprobs):
            return ()
        logprobs = orjson.dumps(self.logprobs(output.index, output.logprobs)) if output.logprobs else b"null"
        return ((self.text_open + orjson.dumps(output.text) + self.text_close, logprobs),)

    def keep(self, output: RequestOutput) -> None:
        """Take an output for choice()."""
        choice = self._choices[output.index]
        choice.texts.append(output.text)
        if output.logprobs:
            choice.logprobs += output.logprobs

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the answer that are reasoning."""
        return 0

    def extra_fields(self) -> JsonObject:
        """Fields of a whole answer beside the common ones."""
        return {}

    def events(self, outputs: Sequence[RequestOutput]) -> bytes:
        """The server-sent events of one delivery, back to back; b"" when nothing visible came."""
        parts: list[bytes] = []
        for output in outputs:
            choice = self._choices[output.index]
            if not choice.started:
                choice.started = True
                choice.prompt_logprobs = output.prompt_logprobs or []
                payload = self.first_payload(output.index)
                if payload:
                    parts += self._chunk(choice, payload, orjson.dumps(self.first_logprobs(output.index)))
            if not self._note(output):
                break
            if choice.is_over:
                continue
            for payload, logprobs in self.deltas(output):
                parts += self._chunk(choice, payload, logprobs)
            if choice.finish_reason is not None:
                parts += self._chunk(choice, self.last_payload, finish=b'"%b"' % choice.finish_reason.encode())
        return b"".join(parts)

    def end(self) -> bytes:
        """The usage chunk, where it was asked for, and the end mark."""
        if not self._options.include_usage:
            return DONE
        document = {**self._head(self.chunk_object_name), "choices": [], "usage": self._usage()}
        return b"data: " + orjson.dumps(document) + b"\n\n" + DONE

    def add(self, outputs: Sequence[RequestOutput]) -> None:
        """Keep one delivery for body()."""
        for output in outputs:
            if not self._note(output):
                break
            choice = self._choices[output.index]
            if output.prompt_logprobs is not None:
                choice.prompt_logprobs = output.prompt_logprobs
            if not choice.is_over:
                self.keep(output)

    def body(self) -> bytes:
        """The whole answer as one JSON document."""
        choices = [self.choice(index, choice.finish_reason) for index, choice in enumerate(self._choices)]
        document = {**self._head(self.object_name), "choices": choices, "usage": self._usage(), **self.extra_fields()}
        return orjson.dumps(document)

    def prompt_logprobs(self, index: int) -> JsonObject:
        """vLLM's field for the prompt of a choice, if it was asked for: by token id, the token itself first."""
        num_top = self._options.num_prompt_logprobs
        if num_top is None:
            return {}
        entries = self._choices[index].prompt_logprobs
        return {"prompt_logprobs": json_list(entry and _ranked(entry, num_top) for entry in entries)}

    @property
    def has_logprobs(self) -> bool:
        """Whether body() may take long: logprobs can be many times the text."""
        return self._options.num_logprobs is not None or self._options.num_prompt_logprobs is not None

    def _note(self, output: RequestOutput) -> bool:
        """Keep counts and the end of a choice; False when the engine gave up."""
        choice = self._choices[output.index]
        if choice.is_over:
            self._num_unwanted += len(output.token_ids)
        else:
            self._num_tokens += len(output.token_ids)
        if output.usage is not None:
            self._usages[output.index] = usage = output.usage
            logger.info(
                "%s: %d prompt tokens, %d of them cached (then: %s), %d generated",
                output.request_id, usage.prompt_tokens, usage.cached_tokens, usage.miss_reason.value,
                usage.completion_tokens,
            )  # fmt: skip
        reason = output.finish_reason
        if reason is None:
            return True
        if reason is FinishReason.ERROR or output.error is not None:
            self.error = output.error or DecodeError("the engine gave this request up", -1)
            if isinstance(self.error, GrammarError) and self.error.param is None:  # it failed while it ran
                self.error.param = self._options.constraint
        elif reason is FinishReason.ABORT:
            self.error = ShuttingDownError("the request was aborted by the server")
        elif not choice.is_over:
            choice.finish_reason = reason.value
        return self.error is None

    def _chunk(
        self, choice: _Choice, payload: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> tuple[bytes, ...]:
        """The pieces of one event; the caller joins many at once."""
        tail = self._running_tail() if self._options.continuous_usage else self._tail
        return choice.opening, payload, b',"logprobs":', logprobs, b',"finish_reason":', finish, b"}", tail

    def _running_tail(self) -> bytes:
        usage = Usage(self._options.prompt_tokens, self._num_tokens)
        return b'],"usage":%b}\n\n' % orjson.dumps(usage_object(usage, self.num_reasoning_tokens))

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
        usages = [usage for _, usage in sorted(self._usages.items())]
        total = Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages) - self._num_unwanted,
            sum(usage.cached_tokens for usage in usages),
        )
        document = usage_object(total, self.num_reasoning_tokens)
        if self._options.cache_info:
            misses = [{"reason": usage.miss_reason.value, "position": usage.cached_tokens} for usage in usages]
            cache_miss = misses[0] if len(misses) == 1 else misses
            document["prompt_tokens_details"] = {"cached_tokens": total.cached_tokens, "cache_miss": cache_miss}
        return document


def usage_object(usage: Usage, num_reasoning_tokens: int) -> JsonObject:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
    }


def _ranked(entry: TokenLogprob, num_top: int) -> JsonObject:
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
    """A list for orjson. A long one is JSON already, made piece by piece: orjson holds the GIL as long as it runs."""
    left, pieces = iter(items), list[bytes]()
    piece = list(islice(left, _PIECE))
    if len(piece) < _PIECE:
        return piece
    while piece:
        pieces.append(orjson.dumps(piece)[1:-1])
        piece = list(islice(left, _PIECE))
    return orjson.Fragment(b"[" + b",".join(pieces) + b"]")


def finite(logprob: float) -> float:
    """A logprob that JSON can hold."""
    return max(logprob, _LEAST_LOGPROB)
