"""Sequences that wait for a sequence id and for cells, first come, first served."""

from __future__ import annotations

import time
from collections import deque

from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.metrics import EngineStats
from llamafast.engine.sequence import NO_SLOT, Sequence

# A request waits for another one that is computing the same prefix, if that saves this many tokens.
_MIN_SHARED = 32


class WaitingQueue(deque[Sequence]):
    """The head is admitted first; only those that wait for a common prefix let others pass.

    is_closed: no cells were left, so nothing can be admitted before some sequence gives its own back.
    """

    def __init__(self, cache: PrefixCache, stats: EngineStats) -> None:
        super().__init__()
        self.is_closed = False
        self.disk: DiskPrefixes | None = None
        self._cache = cache
        self._stats = stats

    def admit(self, num_ids: int, num_promised: int) -> list[Sequence]:
        """Take out those that can start, each with a slot that holds its cached prefix.

        num_ids sequence ids are free; num_promised cells will be taken by those that run and prefill already.
        """
        admitted: list[Sequence] = []
        passed: list[Sequence] = []
        while self:
            sequence = self[0]
            num_ids -= 1 + len(sequence.forks)
            if num_ids < 0:
                break
            if self._waits(sequence) or (self.disk is not None and self.disk.is_loading(sequence)):
                passed.append(self.popleft())
            elif self._start(sequence, num_promised):
                admitted.append(self.popleft())
                num_promised += sequence.num_remaining
            else:
                self.is_closed = True
                break
        self.extendleft(reversed(passed))
        return admitted

    def _waits(self, sequence: Sequence) -> bool:
        """Whether an active sequence is about to compute a long part of this prompt."""
        cache = self._cache
        if not cache.num_announced:
            return False
        if sequence.waits_for is not None and cache.is_announced(sequence.waits_for):
            return True
        reusable_ids = sequence.reusable_ids
        announced = cache.match_announced(reusable_ids)
        num_saved = announced.length - cache.match(reusable_ids).length
        sequence.waits_for = announced.slot if num_saved >= _MIN_SHARED else None
        return sequence.waits_for is not None

    def _start(self, sequence: Sequence, num_promised: int) -> bool:
        cache, stats = self._cache, self._stats
        slot = None if self.disk is None else self.disk.open(sequence, num_promised)
        sequence.slot = slot or cache.open(cache.match(sequence.reusable_ids))
        if not cache.make_room(num_promised + sequence.num_remaining):
            cache.free(sequence.slot)
            sequence.slot = NO_SLOT
            return False
        sequence.load = None
        cache.announce(sequence.slot, sequence.token_ids)
        state = sequence.state
        if not state.scheduled_s:
            state.scheduled_s = time.monotonic()
            state.cached_tokens = sequence.slot.length
            stats.queue_time.observe(state.scheduled_s - state.request.arrival_s)
            stats.prompt_tokens += sequence.num_prompt
            stats.prefix_hits += sequence.slot.length
            stats.prefix_queries += sequence.num_prompt if cache.reuse else 0
        return True
