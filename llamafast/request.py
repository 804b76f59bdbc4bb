"""The vocabulary of the engine: what goes in, what lives inside, what comes out."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypedDict

from llamafast.grammars.constraint import Grammar
from llamafast.grammars.structured import StructuredOutput


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
    """Where a sequence stands in the engine."""

    WAITING = 0
    PREFILLING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass(frozen=True, slots=True)
class ReasoningBudget:
    """How many tokens the model may draw while its reasoning is open; at the limit closing_ids come next, forced.

    is_open: the prompt leaves reasoning open; the text `start` opens it later, "": nothing does; `end` closes it.
    closing_ids: a message and the closing tag, not counted. Forced tokens are generated ones: usage and max_tokens
    count them, penalties and stop strings see them. Under logprobs they are fed one by one and have logprobs.
    """

    max_tokens: int
    is_open: bool
    end: str
    closing_ids: tuple[int, ...]
    start: str = ""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request is sampled. Immutable; ranges are checked by Engine.validate, which names the field.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0, typical_p 1, top_n_sigma -1, xtc_probability 0, dry_multiplier 0
    and mirostat 0 switch that filter off. penalty_last_n: tokens that the penalties look back at, -1 all, 0 none;
    dry_penalty_last_n likewise. bad_words are token id sequences that may not come out. logprobs: None is off, N >= 0
    gives the chosen token's raw logprob and the N most likely tokens; prompt_logprobs the same for the prompt.
    max_tokens None means up to the context's end.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    n: int = 1
    best_of: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    include_stop: bool = False
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    penalty_last_n: int = -1
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: int | None = None
    structured: StructuredOutput | None = None
    reasoning_budget: ReasoningBudget | None = None


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


class MissReason(str, Enum):
    """Why a prompt's tokens from `cached_tokens` on had to be computed."""

    NONE = "none"  # all that could come from the cache did
    NEW = "new"  # no cached prompt begins like this one any further
    EVICTED = "evicted"  # it was there, but had to go
    NO_CHECKPOINT = "no_checkpoint"  # the tokens are there, but this memory keeps no state at that place
    SALT = "salt"  # another tenant's prompt begins like this
    OFF = "off"  # the cache is off, for this request or for all


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token: raw logprob, its bytes, where its text starts in the completion, and the top-N.

    A prompt's token has no place in the completion, but a rank: 1 is the likeliest.
    """

    token_id: int
    logprob: float
    token_bytes: bytes
    text_offset: int
    top: tuple[tuple[int, float, bytes], ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a finished request; all its choices together. miss_reason: of its first admission."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    miss_reason: MissReason = MissReason.NONE


@dataclass(slots=True)
class RequestOutput:
    """What one choice gained in one step. text and token_ids are the new part only (deltas).

    usage stands on the last output of a request. error stands where finish_reason is ERROR. prompt_logprobs, one for
    each prompt token and None for the first, stand on the first output of each choice.
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
