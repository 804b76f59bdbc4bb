"""WaitingQueue: the sequences that wait for a sequence id and cells, by priority and order of arrival."""

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

# A request waits for another request that is computing the same prefix, if that saves this many tokens.
_MIN_SHARED = 32


class WaitingQueue(deque[Sequence]):
    """Admits sequences in order. Sequences that wait for a prefix (of another sequence or the disk) are passed over.

    is_closed: whether no cells are left: nothing can be admitted before a sequence frees its cells.
    """

    def __init__(self, cache: PrefixCache, stats: EngineStats) -> None:
        super().__init__()
        self.is_closed = False
        self._cache = cache
        self._stats = stats
        self._disk: DiskPrefixes | None = None

    def attach_disk(self, disk: DiskPrefixes) -> None:
        """Look up prefixes on the disk too."""
        self._disk = disk

    def close(self) -> None:
        """Note that no cells are left: admit nothing before reopen()."""
        self.is_closed = True

    def reopen(self) -> None:
        """Note that a sequence has freed its cells."""
        self.is_closed = False

    def put(self, sequence: Sequence) -> None:
        """Add a sequence by its rank. A preempted one returns to its old place."""
        rank, i = sequence.rank, len(self)
        while i and self[i - 1].rank > rank:
            i -= 1
        self.insert(i, sequence)

    def admit(self, num_ids: int, num_promised: int) -> tuple[list[Sequence], list[tuple[Sequence, BaseException]]]:
        """Remove and return the sequences that can start. Each gets a slot that holds its cached prefix.

        num_ids: number of free sequence ids. num_promised: cells that the active sequences will need. Returns the
        sequences that start, and (sequence, error) of each that failed.
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
                if self._must_wait(sequence) or (self._disk is not None and self._disk.is_loading(sequence)):
                    passed.append(self.popleft())
                elif self._start(sequence, num_promised):
                    admitted.append(self.popleft())
                    num_promised += sequence.num_remaining
                else:
                    self.close()
                    break
            except BaseException as error:
                failed.append((sequence, error))
                num_ids += 1 + len(sequence.forks)
                self.popleft()
        self.extendleft(reversed(passed))
        return admitted, failed

    def _must_wait(self, sequence: Sequence) -> bool:
        """Whether an active sequence is about to compute a long part of this prompt."""
        cache, leader = self._cache, sequence.waits_for
        if leader is not None and cache.is_announced(leader) and leader.length < sequence.num_shared:
            return True
        sequence.waits_for = None
        if not cache.num_announced:
            return False
        reusable_ids, salt = sequence.reusable_ids, sequence.cache_salt
        shared = cache.match_announced(reusable_ids, salt, sequence.layout)
        if shared.slot is None or shared.slot.length >= shared.length:
            return False
        if shared.length - cache.match(reusable_ids, salt, sequence.layout).length < _MIN_SHARED:
            return False
        cache.stop_at(shared.slot, shared.length)
        sequence.waits_for, sequence.num_shared = shared.slot, shared.length
        return True

    def _start(self, sequence: Sequence, num_promised: int) -> bool:
        cache, salt = self._cache, sequence.cache_salt
        loaded = None if self._disk is None else self._disk.open(sequence, num_promised)
        layout = sequence.layout
        match = cache.match(sequence.reusable_ids, salt, layout) if loaded is None else Match(loaded.length, loaded)
        is_first = not sequence.state.scheduled_s
        reason = cache.miss_reason(sequence.token_ids, salt, match.length, layout) if is_first else MissReason.NONE
        sequence.slot = loaded or cache.open(match, salt)
        places = sequence.state.request.places
        boundaries, end = ((), 0) if places is None else (places.boundaries, places.end)
        cache.announce(sequence.slot, sequence.token_ids, boundaries, end, layout)
        if not cache.make_room(num_promised + sequence.num_remaining):
            cache.park(sequence.slot, sequence.token_ids)
            sequence.slot = NO_SLOT
            return False
        sequence.load = None
        if self._disk is not None:
            self._disk.plan_checkpoint(sequence)
        if is_first:
            self._count_admission(sequence, MissReason(reason))
        return True

    def _count_admission(self, sequence: Sequence, reason: MissReason) -> None:
        """Count the first admission of a request and its hits in the cache."""
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
