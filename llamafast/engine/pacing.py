"""The pacer: how many prompt tokens a step may take beside sequences that generate."""

from __future__ import annotations

from collections import deque
from statistics import median

# Without a target, a step may take so many times as long as its decode rows alone; the prompts get the difference.
# Streams keep more than half of their speed. Twice as long is too much: the cells of a prompt slow the rows down.
_AUTO_STRETCH = 1.6

# With fewer tokens, a pass over the weights brings too little, and a prompt takes very long.
_MIN_TOKENS = 8

# A chunk in a step of its own is large from here on: on CPUs, attention then takes up to ten times less per token.
_LARGE = 64

# Smaller chunks are worth their shorter steps up to this many times the time per token.
_SMALL_WASTE = 1.5

# After so many large chunks a small one is tried again: at the beginning of a new prompt small ones cost less.
_MAX_LARGE = 256

# Samples per median: few, to follow a prompt that gets slower with its length; enough to outvote one slow step.
_NUM_SAMPLES = 3

# A measured decode counts for steps whose number of rows is within this factor.
_LIKE = 1.25

# After so many steps with prompts in a row, one goes without, to measure again what decode rows take alone.
_MAX_UNSEEN = 64


class StepPacer:
    """Learns how long decode rows and prompt tokens take, and fills steps up to a target.

    max_step_ms: the target. None: a fixed multiple of a step of decode rows alone; 0: no target.
    max_tokens: the most prompt tokens of a step.
    takes_turns: decode rows and prompt chunks are steps of their own; two such steps together have one target.
    """

    def __init__(self, max_step_ms: float | None, max_tokens: int, takes_turns: bool = False) -> None:
        self.max_step_ms = max_step_ms
        self.max_tokens = max_tokens
        self.takes_turns = takes_turns
        self._decodes: deque[tuple[int, float]] = deque(maxlen=_NUM_SAMPLES)  # rows, ms
        # Per token. Large chunks are kept apart if they are steps of their own.
        self._small_ms: deque[float] = deque(maxlen=_NUM_SAMPLES)
        self._large_ms: deque[float] = deque(maxlen=_NUM_SAMPLES)
        self._num_large = 0  # large chunks since a small one
        self._num_tried = 0  # prompt tokens of the largest step beside decodes
        self._num_unseen = 0  # steps with prompts since the last one without

    def must_see_decode(self, num_rows: int) -> bool:
        """Whether the next step must have decode rows alone, because the target is unknown without its time.

        Never true twice in a row, so that prompts go on.
        """
        if self.max_step_ms is not None or not self._num_unseen:
            return False
        return self._num_unseen >= _MAX_UNSEEN or not self._seen(num_rows)

    def budget(self, num_rows: int, num_prompts: int = 1) -> int:
        """Prompt tokens for a step beside num_rows decode rows, while num_prompts want some."""
        if self.max_step_ms == 0:
            return self.max_tokens
        decode_ms = self._decode_ms(num_rows)
        # If more requests wait for a first token than for their next one, the prompts get more of the time.
        stretch = max(_AUTO_STRETCH, 1 + num_prompts / max(1, num_rows))
        target_ms = decode_ms * stretch if self.max_step_ms is None else self.max_step_ms
        # At most twice the largest chunk so far: small chunks say little about large ones.
        return min(self._fitting(target_ms - decode_ms), max(self._num_first, 2 * self._num_tried), self.max_tokens)

    def note_decode(self, num_rows: int, ms: float) -> None:
        """A step of decode rows alone is done."""
        self._decodes.append((num_rows, ms))
        self._num_unseen = 0

    def note_prompts(self, num_tokens: int, ms: float, num_rows: int) -> None:
        """A step of num_tokens prompt tokens and num_rows decode rows is done, while sequences generate."""
        self._num_unseen += 1
        if num_tokens < min(_MIN_TOKENS, self.max_tokens):
            return  # its time says little about a token
        own_ms = ms - self._decode_ms(num_rows) if num_rows else ms
        # At least a little: one slow decode must not make prompts look free.
        is_large = self.takes_turns and num_tokens >= _LARGE
        (self._large_ms if is_large else self._small_ms).append(max(own_ms, 0.05 * ms, 1e-6) / num_tokens)
        self._num_tried = max(self._num_tried, num_tokens)
        self._num_large = self._num_large + 1 if is_large else 0
        if self._num_large > _MAX_LARGE:
            self._num_large = 0
            self._small_ms.clear()

    def _fitting(self, ms: float) -> int:
        """The tokens of a chunk that takes `ms`; a few more or less where that many would be slow per token."""
        if not (self._large_ms or self._small_ms):
            return self._num_first
        large_ms = median(self._large_ms) if self._large_ms else 0.0
        if large_ms and ms >= _LARGE * large_ms:
            return int(ms / large_ms)
        small_ms = median(self._small_ms) if self._small_ms else large_ms
        if large_ms and small_ms > _SMALL_WASTE * large_ms:
            return _LARGE
        return max(_MIN_TOKENS, int(ms / small_ms))

    @property
    def _num_first(self) -> int:
        return _LARGE if self.takes_turns else _MIN_TOKENS

    def _seen(self, num_rows: int) -> list[float]:
        return [ms for rows, ms in self._decodes if rows <= num_rows * _LIKE and num_rows <= rows * _LIKE]

    def _decode_ms(self, num_rows: int) -> float:
        """How long so many decode rows take alone; without similar steps, how long the last decode took."""
        seen = self._seen(num_rows) or [ms for _, ms in self._decodes][-1:]
        return median(seen) if seen else 0.0
