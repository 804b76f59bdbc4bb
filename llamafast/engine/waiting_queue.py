"""Sequences that wait for a sequence id and for cells: by priority, first come, first served."""

from __future__ import annotations

import logging
import time
from collections import deque

from llamafast.cache.lookup import Match
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.engine.disk_prefixes import DiskPrefixes
from llamafast.engine.metrics import EngineStats
from llamafast.engine.sequence import NO_SLOT, Sequence
from llamafast.request import MissReason

_log = logging.getLogger(__name__)

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

    def put(self, sequence: Sequence) -> None:
        """Add a sequence at its place; a preempted one comes back to where it stood."""
        rank, i = sequence.rank, len(self)
        while i and self[i - 1].rank > rank:
            i -= 1
        self.insert(i, sequence)

    def admit(self, num_ids: int, num_promised: int) -> tuple[list[Sequence], list[tuple[Sequence, BaseException]]]:
        """Take out those that can start, each with a slot that holds its cached prefix; and those that raised an error.

        num_ids sequence ids are free; num_promised cells will be taken by those that run and prefill already.
        """
        admitted: list[Sequence] = []
        passed: list[Sequence] = []
        failed: list[tuple[Sequence, BaseException]] = []
        while self:
            sequence = self[0]
            num_ids -= 1 + len(sequence.forks)
            if num_ids < 0:
                break
            try:
                if self._waits(sequence) or (self.disk is not None and self.disk.is_loading(sequence)):
                    passed.append(self.popleft())
                elif self._start(sequence, num_promised):
                    admitted.append(self.popleft())
                    num_promised += sequence.num_remaining
                else:
                    self.is_closed = True
                    break
            except BaseException as error:
                failed.append((sequence, error))
                num_ids += 1 + len(sequence.forks)
                self.popleft()
        self.extendleft(reversed(passed))
        return admitted, failed

    def _waits(self, sequence: Sequence) -> bool:
        """Whether an active sequence is about to compute a long part of this prompt."""
        cache, leader = self._cache, sequence.waits_for
        if leader is not None and cache.is_announced(leader) and leader.length < sequence.num_shared:
            return True
        sequence.waits_for = None
        if not cache.num_announced:
            return False
        reusable_ids, salt = sequence.reusable_ids, sequence.cache_salt
        shared = cache.match_announced(reusable_ids, salt)
        if shared.slot is None or shared.slot.length >= shared.length:
            return False
        if shared.length - cache.match(reusable_ids, salt).length < _MIN_SHARED:
            return False
        cache.stop_at(shared.slot, shared.length)
        sequence.waits_for, sequence.num_shared = shared.slot, shared.length
        return True

    def _start(self, sequence: Sequence, num_promised: int) -> bool:
        cache, salt = self._cache, sequence.cache_salt
        loaded = None if self.disk is None else self.disk.open(sequence, num_promised)
        match = cache.match(sequence.reusable_ids, salt) if loaded is None else Match(loaded.length, loaded)
        is_first = not sequence.state.scheduled_s
        reason = MissReason(cache.miss_reason(sequence.token_ids, salt, match.length)) if is_first else MissReason.NONE
        sequence.slot = loaded or cache.open(match, salt)
        places = sequence.state.request.places
        boundaries, end = ((), 0) if places is None else (places.boundaries, places.end)
        cache.announce(sequence.slot, sequence.token_ids, boundaries, end)
        if not cache.make_room(num_promised + sequence.num_remaining):
            cache.park(sequence.slot, sequence.token_ids)
            sequence.slot = NO_SLOT
            return False
        sequence.load = None
        if self.disk is not None:
            self.disk.plan_checkpoint(sequence)
        if is_first:
            self._book(sequence, reason)
        return True

    def _book(self, sequence: Sequence, reason: MissReason) -> None:
        """Count what a request found in the cache as it came in."""
        stats, state = self._stats, sequence.state
        state.scheduled_s = time.monotonic()
        state.cached_tokens = num_cached = sequence.slot.length
        state.miss_reason = reason
        stats.queue_time.observe(state.scheduled_s - state.request.arrival_s)
        stats.prompt_tokens += sequence.num_prompt
        stats.prefix_hits += num_cached
        stats.prefix_queries += sequence.num_prompt if self._cache.reuse else 0
        stats.prefix_misses[reason.value] += 1
        if reason is MissReason.EVICTED:
            self._cache.regret(sequence.token_ids, sequence.cache_salt, num_cached)
        _log.debug(
            "request %s: %d of %d prompt tokens cached; miss: %s at %d",
            sequence.request_id, num_cached, sequence.num_prompt, reason.value, num_cached,
        )  # fmt: skip
