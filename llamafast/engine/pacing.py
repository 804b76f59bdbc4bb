"""StepPacer: limits the prompt tokens of a step while other sequences generate."""

from __future__ import annotations

from collections import deque
from statistics import median

# Without a target, a step with prompts may take this many times the duration of its decode rows alone. Streams then
# keep more than half of their speed. A factor of 2 is too much: the cells of a prompt slow the decode rows down.
_AUTO_STRETCH = 1.6

# With fewer tokens per pass over the weights, a prompt takes very long.
_MIN_TOKENS = 8

# A chunk of at least this many tokens, in a step of its own, is large: its attention on a CPU takes up to ten times
# less time per token.
_LARGE = 64

# Small chunks give shorter steps. They are used if their time per token is at most this many times that of large ones.
_SMALL_WASTE = 1.5

# After this many large chunks, a small one is tried again: they cost less at the beginning of a new prompt.
_MAX_LARGE = 256

# Samples per median. A prompt gets slower with its length, so old samples are wrong; three outvote one slow step.
_NUM_SAMPLES = 3

# A measured decode applies to steps with a similar number of rows, within this factor.
_LIKE = 1.25

# After this many consecutive steps with prompts, one step computes only decode rows, to measure their time again.
_MAX_UNSEEN = 64


class StepPacer:
    """Measures the time of decode rows and prompt tokens, and chooses the prompt tokens that fit into a step's target.

    max_step_ms: the target in milliseconds. None: a fixed multiple of a step of decode rows alone; 0: no target.
    max_tokens: the maximum of prompt tokens in a step.
    takes_turns: whether decode rows and prompt chunks are separate steps. Two such steps together have one target.
    """

    def __init__(self, max_step_ms: float | None, max_tokens: int, takes_turns: bool = False) -> None:
        self.max_step_ms = max_step_ms
        self.max_tokens = max_tokens
        self.takes_turns = takes_turns
        self._decodes: deque[tuple[int, float]] = deque(maxlen=_NUM_SAMPLES)  # rows, ms
        # Milliseconds per token. Large chunks have their own samples if they are separate steps.
        self._small_ms: deque[float] = deque(maxlen=_NUM_SAMPLES)
        self._large_ms: deque[float] = deque(maxlen=_NUM_SAMPLES)
        self._num_large = 0  # large chunks since a small one
        self._num_tried = 0  # prompt tokens of the largest step so far
        self._num_unseen = 0  # steps with prompts since the last one without prompts

    def must_see_decode(self, num_rows: int) -> bool:
        """Whether the next step must compute decode rows alone, to measure their time, on which the target depends.

        It is never true twice in a row, so that prompts advance.
        """
        if self.max_step_ms is not None or not self._num_unseen:
            return False
        return self._num_unseen >= _MAX_UNSEEN or not self._seen(num_rows)

    def budget(self, num_rows: int, num_prompts: int = 1) -> int:
        """Maximum prompt tokens of a step with num_rows decode rows, for num_prompts prompts."""
        if self.max_step_ms == 0:
            return self.max_tokens
        decode_ms = self._decode_ms(num_rows)
        # If more requests wait for their first token than for a next token, the prompts get more of the time.
        stretch = max(_AUTO_STRETCH, 1 + num_prompts / max(1, num_rows))
        target_ms = decode_ms * stretch if self.max_step_ms is None else self.max_step_ms
        # At most twice the largest step so far: the time of small chunks predicts that of large ones badly.
        return min(self._fitting(target_ms - decode_ms), max(self._num_first, 2 * self._num_tried), self.max_tokens)

    def note_decode(self, num_rows: int, ms: float) -> None:
        """Note the duration of a step of decode rows alone."""
        self._decodes.append((num_rows, ms))
        self._num_unseen = 0

    def note_prompts(self, num_tokens: int, ms: float, num_rows: int) -> None:
        """Note the duration of a step of num_tokens prompt tokens and num_rows decode rows."""
        self._num_unseen += 1
        if num_tokens < min(_MIN_TOKENS, self.max_tokens):
            return  # too few tokens for a time per token
        own_ms = ms - self._decode_ms(num_rows) if num_rows else ms
        # A lower bound: after one slow decode the difference can be 0 or negative.
        is_large = self.takes_turns and num_tokens >= _LARGE
        (self._large_ms if is_large else self._small_ms).append(max(own_ms, 0.05 * ms, 1e-6) / num_tokens)
        self._num_tried = max(self._num_tried, num_tokens)
        self._num_large = self._num_large + 1 if is_large else 0
        if self._num_large > _MAX_LARGE:
            self._num_large = 0
            self._small_ms.clear()

    def _fitting(self, ms: float) -> int:
        """Tokens of a chunk that takes about `ms` milliseconds; _LARGE if small chunks take too much time per token."""
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
        """Milliseconds of a step of num_rows decode rows; without similar steps, those of the last decode."""
        seen = self._seen(num_rows) or [ms for _, ms in self._decodes][-1:]
        return median(seen) if seen else 0.0
