"""The vocabulary of the engine: what goes in, what lives inside, what comes out."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from enum import Enum

from llamafast.grammars.constraint import Grammar
from llamafast.sampling_params import ReasoningBudget, SamplingParams

__all__ = [
    "FinishReason",
    "MissReason",
    "ReasoningBudget",
    "Request",
    "RequestOutput",
    "SamplingParams",
    "SequenceStatus",
    "TokenLogprob",
    "Usage",
]


class FinishReason(str, Enum):
    """Why a sequence ended. `stop` and `length` are OpenAI's words; the others are for outputs that were cut off."""

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
class Request:
    """One prompt and how to continue it. prompt_token_ids: array('i'), at least one token.

    grammar: params.structured as compile_grammar made it; None where params.structured is. boundaries: places in the
    prompt, ascending, where later prompts are likely to part from it (ends of messages): memories that cannot be cut
    keep their state there. shown_ids: control tokens that write their own text although skip_special hides the others.
    match_stops False: whoever reads the outputs looks for params.stop. Prefixes are shared only among equal cache_salt;
    use_cache False neither takes nor leaves any. Of the waiting requests the lowest priority value goes first. n_keep:
    with context shift, so many of the prompt's tokens always stay, and a BOS before them; negative: all; None: those of
    the first message.
    """

    request_id: str
    prompt_token_ids: array[int]
    params: SamplingParams = SamplingParams()
    skip_special: bool = True
    shown_ids: frozenset[int] = frozenset()
    match_stops: bool = True
    arrival_s: float = field(default_factory=time.monotonic)
    grammar: Grammar | None = None
    boundaries: tuple[int, ...] = ()
    cache_salt: str = ""
    use_cache: bool = True
    priority: int = 0
    n_keep: int | None = None


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
