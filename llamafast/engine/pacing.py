"""How many prompt tokens a step may take while sequences generate: as many as its time allows."""

from __future__ import annotations

from collections import deque
from statistics import median

# What a step may take of the time that its decode rows take alone, where no target is set. The rest of it goes to
# the prompts: streams keep more than half of their speed. Twice would be too much: the cells of a prompt slow the rows.
_AUTO_STRETCH = 1.6

# Below it a pass over the weights brings too little, and a prompt would never end.
_MIN_TOKENS = 8

# From here on a chunk of its own is large: on CPUs, llama.cpp's attention takes up to ten times less per token then.
_LARGE = 64

# Smaller chunks are worth their shorter steps up to this many times the time per token.
_SMALL_WASTE = 1.5

# Large chunks after which small ones get another chance: a new prompt may be at its beginning, where they cost less.
_MAX_LARGE = 256

# Few enough to follow a prompt that gets slower with its length, enough to shrug off one slow step.
_NUM_SAMPLES = 3

# A measured decode says something about steps whose number of rows is within this factor.
_LIKE = 1.25

# Steps with prompts in a row after which one goes without, to see again what decode rows take alone.
_MAX_UNSEEN = 64


class StepPacer:
    """Learns what decode rows and prompt tokens take, and fills steps up to a target.

    max_step_ms None: a fixed multiple of a step of decode rows alone; 0: no target. max_tokens: prompt tokens of a step
    at most. takes_turns: decode rows and prompt chunks are steps of their own; two in a row are one step here.
    """

    def __init__(self, max_step_ms: float | None, max_tokens: int, takes_turns: bool = False) -> None:
        self.max_step_ms = max_step_ms
        self.max_tokens = max_tokens
        self.takes_turns = takes_turns
        self._decodes: deque[tuple[int, float]] = deque(maxlen=_NUM_SAMPLES)  # rows, ms
        self._small_ms: deque[float] = deque(
            maxlen=_NUM_SAMPLES
        )  # per token; large chunks apart, if they are of their own
        self._large_ms: deque[float] = deque(maxlen=_NUM_SAMPLES)
        self._num_large = 0  # large chunks since a small one
        self._num_tried = 0  # prompt tokens of the largest step beside decodes
        self._num_unseen = 0  # steps with prompts since the last one without

    def must_see_decode(self, num_rows: int) -> bool:
        """Whether the next step should be one of decode rows alone: there is no telling the target without.

        Never true twice in a row: prompts go on.
        """
        if self.max_step_ms is not None or not self._num_unseen:
            return False
        return self._num_unseen >= _MAX_UNSEEN or not self._seen(num_rows)

    def budget(self, num_rows: int, num_prompts: int = 1) -> int:
        """Prompt tokens for a step beside num_rows decode rows, while num_prompts want some."""
        if self.max_step_ms == 0:
            return self.max_tokens
        decode_ms = self._decode_ms(num_rows)
        # Where more wait for a first token than for their next one, they get more of the time.
        stretch = max(_AUTO_STRETCH, 1 + num_prompts / max(1, num_rows))
        target_ms = decode_ms * stretch if self.max_step_ms is None else self.max_step_ms
        # No more than twice what was tried: small chunks say little about large ones.
        return min(self._fitting(target_ms - decode_ms), max(self._num_first, 2 * self._num_tried), self.max_tokens)

    def note_decode(self, num_rows: int, ms: float) -> None:
        """A step of decode rows alone is done."""
        self._decodes.append((num_rows, ms))
        self._num_unseen = 0

    def note_prompts(self, num_tokens: int, ms: float, num_rows: int) -> None:
        """A step of num_tokens prompt tokens and num_rows decode rows is done, while sequences generate."""
        self._num_unseen += 1
        if num_tokens < min(_MIN_TOKENS, self.max_tokens):
            return  # what it took is mostly chance
        own_ms = ms - self._decode_ms(num_rows) if num_rows else ms
        # At least a little: a decode that happened to be slow must not make prompts look free.
        is_large = self.takes_turns and num_tokens >= _LARGE
        (self._large_ms if is_large else self._small_ms).append(max(own_ms, 0.05 * ms, 1e-6) / num_tokens)
        self._num_tried = max(self._num_tried, num_tokens)
        self._num_large = self._num_large + 1 if is_large else 0
        if self._num_large > _MAX_LARGE:
            self._num_large = 0
            self._small_ms.clear()

    def _fitting(self, ms: float) -> int:
        """The tokens of a chunk that takes so long, or the nearest to it that is no waste."""
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
        """What so many decode rows take alone; without like steps, what the last one took."""
        seen = self._seen(num_rows) or [ms for _, ms in self._decodes][-1:]
        return median(seen) if seen else 0.0
