"""The vocabulary of the engine: what goes in, what lives inside, what comes out."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypedDict

from llamafast.cache.prompt import MediaSpan
from llamafast.grammars.constraint import Grammar
from llamafast.sampling_params import ReasoningBudget, SamplingParams

__all__ = [
    "CacheSettings",
    "FinishReason",
    "MediaContent",
    "MissReason",
    "PromptPlaces",
    "ReasoningBudget",
    "Request",
    "RequestOutput",
    "SamplingParams",
    "SequenceStatus",
    "TokenLogprob",
    "Usage",
]


class FinishReason(str, Enum):
    """Why a sequence ended. Only "stop" and "length" are also finish reasons of OpenAI's API.

    STOP: the model stopped by itself, or a stop string or a stop token came.
    LENGTH: max_tokens or the end of the context was reached.
    ABORT: the request was aborted, by its client or by the server.
    ERROR: the work for the request failed; RequestOutput.error tells why.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class SequenceStatus(Enum):
    """How far the engine has come with a sequence."""

    WAITING = 0
    PREFILLING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass(frozen=True, slots=True)
class PromptPlaces:
    """Places in a prompt at which messages end. Each place is the number of tokens before it.

    head: the end of what precedes the conversation (system message, tools). A context shift keeps the tokens up to it.
    turns: ascending, the ends of messages after the head. Later prompts are likely to differ from this one from the
    head or from one of these places on: a memory that cannot be cut keeps its state at each of them.
    end: how much of the prompt the next prompt of the same conversation will repeat. A prompt that shares these tokens
    continues the conversation, and the disk cache stores them.
    """

    head: int
    turns: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, ends: Sequence[int]) -> PromptPlaces | None:
        """The places of a prompt of messages. ends: ascending, the end of the head and of each turn. None: no ends."""
        return cls(ends[0], tuple(ends[1:]), ends[-1]) if ends else None

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The places at which later prompts are likely to differ from this one, ascending: the head and the turns."""
        return (self.head, *self.turns)


class CacheSettings(TypedDict, total=False):
    """The fields of a Request that concern the prefix cache and the waiting queue, as keyword arguments."""

    cache_salt: str
    use_cache: bool
    priority: int
    n_keep: int | None


@dataclass(frozen=True, slots=True, eq=False)
class MediaContent:
    """A decoded image or sound. MediaPrompts makes it.

    digest: hash of everything that determines its embeddings.
    width, height: of an image, in pixels.
    read_rgb: gives the pixels of an image: rows of RGB, one byte each. It may have to decode the file.
    samples: of a sound: array('f'), one channel. None: it is an image.
    """

    digest: bytes
    width: int = 0
    height: int = 0
    read_rgb: Callable[[], bytes] = bytes
    samples: array[float] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it.

    request_id: unique among the requests that run.
    prompt_token_ids: array('i'), at least one token.
    params: how tokens are drawn, and when the output ends.
    skip_special: control tokens write no text.
    shown_ids: the control tokens that write their text even if skip_special is True.
    match_stops: the engine looks for params.stop. False: the reader of the outputs does.
    arrival_s: the time of arrival, in seconds of time.monotonic.
    grammar: the result of compile_grammar for params.structured; None if params.structured is None.
    places: named places in the prompt. None: nothing is known about the prompt.
    cache_salt: the cache shares prefixes only among requests with an equal salt.
    use_cache: False: the request takes nothing from the prefix cache and leaves nothing in it.
    priority: of the waiting requests, the one with the lowest value goes first.
    n_keep: the number of prompt tokens that a context shift keeps, besides a BOS before them. Negative: all of them.
    None: up to places.head.
    media: the spans of prompt_token_ids that are rows of media, ascending. Their ids are those of
    cache.prompt.media_ids (Prompt.join makes both). Without media, prompt_token_ids are token ids only.
    contents: for each span of media, what its embeddings are computed from.
    """

    request_id: str
    prompt_token_ids: array[int]
    params: SamplingParams = SamplingParams()
    skip_special: bool = True
    shown_ids: frozenset[int] = frozenset()
    match_stops: bool = True
    arrival_s: float = field(default_factory=time.monotonic)
    grammar: Grammar | None = None
    places: PromptPlaces | None = None
    cache_salt: str = ""
    use_cache: bool = True
    priority: int = 0
    n_keep: int | None = None
    media: tuple[MediaSpan, ...] = ()
    contents: tuple[MediaContent, ...] = ()


class MissReason(str, Enum):
    """Why the prompt's tokens after the first `cached_tokens` had to be computed."""

    NONE = "none"  # everything that can come from the cache came from it
    NEW = "new"  # no cached prompt shares more of this prompt's beginning
    EVICTED = "evicted"  # the tokens were in the cache and have been dropped
    NO_CHECKPOINT = "no_checkpoint"  # the cache has the tokens, but this kind of memory has no state at that position
    SALT = "salt"  # only prompts with another cache_salt share more
    OFF = "off"  # the cache is off, for this request or for all


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The logprob of one token.

    token_id, token_bytes: the token.
    logprob: its raw logprob, before all sampling settings.
    text_offset: the index of the token's first character in the completion; a prompt's token has none.
    top: (token id, logprob, bytes) of the most likely tokens, best first.
    rank: of a prompt's token, its rank by probability from 1; of others 0.
    """

    token_id: int
    logprob: float
    token_bytes: bytes
    text_offset: int
    top: tuple[tuple[int, float, bytes], ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a finished request, all its choices together.

    prompt_tokens: tokens of the prompt.
    completion_tokens: generated tokens.
    cached_tokens: tokens of the prompt that came from the cache.
    miss_reason: why no more of them did, at the first admission.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    miss_reason: MissReason = MissReason.NONE


@dataclass(slots=True)
class RequestOutput:
    """What one choice gained in one step.

    request_id, index: the request, and the number of its choice.
    text, token_ids: the new part only.
    logprobs: those of the tokens whose text is complete; None: the request asks for none.
    finish_reason: set on the choice's last output.
    stop_reason: the stop string or the token of stop_token_ids that ended the choice.
    usage: set on the request's last output.
    error: set where finish_reason is ERROR.
    prompt_logprobs: on the choice's first output, one for each prompt token and None for the first; None: the request
        asks for none.
    """

    request_id: str
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    error: Exception | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def is_last(self) -> bool:
        """Whether the request has ended with this output."""
        return self.usage is not None
