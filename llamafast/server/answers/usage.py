"""Counts the tokens of an answer. Each dialect renders the counts under its own names."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from llamafast.request import MissReason, RequestOutput, Usage

logger = logging.getLogger("llamafast.server")


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """The end of the cached part of one prompt.

    reason: why the tokens from `position` on were not in the cache.
    position: the number of prompt tokens that came from the cache.
    """

    reason: MissReason
    position: int


@dataclass(slots=True)  # not frozen: some streams make one per chunk, and a frozen one takes three times as long
class AnswerUsage:
    """The tokens of all prompts and all choices of one HTTP request.

    prompt_tokens: tokens of the prompts, cached ones included.
    completion_tokens: generated tokens of the choices, reasoning included, up to where each choice ends.
    cached_tokens: tokens of the prompts that came from the cache.
    reasoning_tokens: generated tokens that are reasoning.
    misses: one per prompt, in the prompts' order; empty before the end.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    misses: tuple[CacheMiss, ...] = ()


class UsageCount:
    """Counts the tokens of one HTTP request while its outputs arrive.

    num_tokens: generated tokens that belong to the answer so far.
    num_unwanted: tokens that the engine generated after the server had ended their choice.
    """

    __slots__ = ("_usages", "num_tokens", "num_unwanted")

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_unwanted = 0
        self._usages: dict[int, Usage] = {}  # one per prompt; the key is the choice that ended last

    def add(self, output: RequestOutput, usage: Usage) -> None:
        """Add and log the engine's counts of one prompt. They come with its last output."""
        self._usages[output.index] = usage
        logger.info(
            "%s: %d prompt tokens, %d of them cached (miss: %s), %d generated",
            output.request_id, usage.prompt_tokens, usage.cached_tokens, usage.miss_reason.value,
            usage.completion_tokens,
        )  # fmt: skip

    def running(self, prompt_tokens: int, reasoning_tokens: int) -> AnswerUsage:
        """The usage so far. The number of cached tokens is known only at the end."""
        return AnswerUsage(prompt_tokens, self.num_tokens, reasoning_tokens=reasoning_tokens)

    def total(self, reasoning_tokens: int) -> AnswerUsage:
        """The usage at the end."""
        usages = [usage for _, usage in sorted(self._usages.items())]
        return AnswerUsage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages) - self.num_unwanted,
            sum(usage.cached_tokens for usage in usages),
            reasoning_tokens,
            tuple(CacheMiss(usage.miss_reason, usage.cached_tokens) for usage in usages),
        )
