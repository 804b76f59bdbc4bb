"""The records of the engine's interface: requests, their sampling settings, and outputs."""

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
    """The reason why a sequence ended. Only "stop" and "length" are also finish reasons of OpenAI's API.

    STOP: the model ended the output, or a stop string or a stop token occurred.
    LENGTH: the output reached max_tokens or the end of the context.
    ABORT: the request was aborted, by its client or by the server.
    ERROR: the engine failed at the request; RequestOutput.error is the reason.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class SequenceStatus(Enum):
    """The state of a sequence in the engine.

    WAITING: it has no KV cells.
    PREFILLING: its prompt is being computed.
    RUNNING: it generates.
    FINISHED: it has left the engine.
    """

    WAITING = 0
    PREFILLING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass(frozen=True, slots=True)
class PromptPlaces:
    """Places in a prompt where messages end. A place is the number of tokens before it.

    head: end of the part before the conversation (system message, tools). A context shift keeps the tokens up to it.
    turns: ends of the messages after the head, ascending. Later prompts are likely to differ from this one after the
    head or after one of these places, so a memory that cannot be cut takes a checkpoint at each of them.
    end: number of tokens that the next prompt of the same conversation is expected to repeat. A prompt that shares
    them continues the conversation. The disk cache stores them.
    """

    head: int
    turns: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, ends: Sequence[int]) -> PromptPlaces | None:
        """The places of a prompt. ends: ends of the head and of each turn, ascending. None if `ends` is empty."""
        return cls(ends[0], tuple(ends[1:]), ends[-1]) if ends else None

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The head and the turns, ascending: later prompts are likely to differ after one of them."""
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
    """One prompt, and the settings of its continuation.

    request_id: unique among the unfinished requests.
    prompt_token_ids: array('i'), at least one token.
    params: SamplingParams, the sampling settings and the conditions that end the output.
    skip_special: whether control tokens write no text.
    shown_ids: control tokens that write their text even if skip_special is True.
    match_stops: whether the engine matches params.stop. False: the reader of the outputs must do it.
    arrival_s: the time of arrival, in seconds of time.monotonic.
    grammar: the result of compile_grammar for params.structured; None if params.structured is None.
    places: places in the prompt where messages end; None: unknown.
    cache_salt: the cache shares prefixes only between requests with the same salt.
    use_cache: whether the request reads and fills the prefix cache.
    priority: waiting requests with a lower value are admitted first.
    n_keep: the number of prompt tokens that a context shift keeps, in addition to a BOS token. Negative: all of them.
    None: the tokens up to places.head.
    media: the spans of prompt_token_ids that are rows of media, ascending. The ids of these rows come from
    cache.prompt.media_ids; Prompt.join makes ids and spans. All other ids are token ids.
    contents: for each span of media, the content that its embeddings are computed from.
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
    """The reason why the prompt's tokens after the first `cached_tokens` had to be computed."""

    NONE = "none"  # the cache supplied all tokens that it can supply
    NEW = "new"  # no cached prompt shares more tokens
    EVICTED = "evicted"  # the tokens were in the cache and were evicted
    NO_CHECKPOINT = "no_checkpoint"  # the cache has the tokens, but the memory has no checkpoint at that position
    SALT = "salt"  # only prompts with another cache_salt share more tokens
    OFF = "off"  # the cache is off, for this request or for all requests


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The logprob of one token.

    token_id, token_bytes: id and bytes of the token.
    logprob: its raw logprob in nats, before all sampling settings.
    text_offset: the index of the token's first character in the output; 0 for a token of the prompt.
    top: (token id, logprob, bytes) of the most likely tokens, best first.
    rank: rank of a prompt's token by probability, from 1; 0 for a generated token.
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
    cached_tokens: tokens of the prompt that came from the prefix cache.
    miss_reason: the reason why no more tokens came from it, at the first admission.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    miss_reason: MissReason = MissReason.NONE


@dataclass(slots=True)
class RequestOutput:
    """The result of one step for one choice.

    request_id, index: the request, and the number of its choice from 0.
    text, token_ids: the new text and tokens.
    logprobs: one per token with complete text; None: the request has no logprobs.
    finish_reason: set on the choice's last output.
    stop_reason: the stop string or the token of stop_token_ids that ended the choice.
    usage: set on the request's last output.
    error: set if finish_reason is ERROR.
    prompt_logprobs: set on the choice's first output: one per prompt token, None for the first; None: the request has
        none.
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
