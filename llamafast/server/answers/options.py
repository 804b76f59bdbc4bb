"""The fields that all chunks of an answer repeat, and the parts of an answer that the client asks for."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerHeader:
    """The fields that all chunks of one answer repeat.

    id: the answer's id, with the prefix of its API.
    created: seconds since 1970.
    model: the name of the served model.
    system_fingerprint: equal for equal model facts and program version.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: str, system_fingerprint: str) -> AnswerHeader:
        """A header with a new id and the current time. prefix: the beginning of the id."""
        return cls(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model, system_fingerprint)


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """The parts of an answer that the client asks for.

    include_usage: a stream ends with a chunk that holds the usage.
    continuous_usage: every chunk holds the usage so far.
    num_logprobs: alternatives per generated token; None for no logprobs at all.
    num_prompt_logprobs: alternatives per token of the prompt; None for no logprobs at all.
    prompt_tokens: tokens of all prompts.
    constraint: the path of the request field that constrains the output; None for no constraint.
    cache_info: the usage tells where and why the cached part of each prompt ends.
    image_tokens, audio_tokens: rows of all prompts that are images, sounds.
    """

    include_usage: bool = False
    continuous_usage: bool = False
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    prompt_tokens: int = 0
    constraint: str | None = None
    cache_info: bool = False
    image_tokens: int = 0
    audio_tokens: int = 0
