"""Who owns which KV cells: sequence ids, shared prefixes, parked prefixes, and how many cells are in use."""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass
from typing import Protocol

from llamafast.cache.radix import RadixTree


class Memory(Protocol):
    """The part of a context that moves sequences about."""

    def seq_rm(self, seq_id: int, p0: int, p1: int) -> bool: ...
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None: ...
    def seq_pos_max(self, seq_id: int) -> int: ...
    def state_seq_set(self, seq_id: int, state: bytes, partial_only: bool = False) -> None: ...


class Slot:
    """One sequence id in use. Positions [0, length) are in the KV memory.

    It is cut into segments, each of which it shares with the slots copied from it, or it from them:

        A: [----- s0 -----------)          s0 is written by A alone, B reads the first part of it
        B: [----- s0 --)[-- s1 ---)        so s0 holds max(end of A in s0, end of B in s0) cells
    """

    __slots__ = ("length", "segments", "seq_id", "used_at")

    def __init__(self, seq_id: int, length: int) -> None:
        self.seq_id = seq_id
        self.length = length
        self.used_at = 0  # num_generated of the cache when it was parked or matched last
        self.segments: list[_Segment] = []


class _Segment:
    """A run of cells from position `start` on, computed by one slot and read by some."""

    __slots__ = ("readers", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.readers: set[Slot] = set()

    def num_cells(self) -> int:
        return max((_end(slot, self) for slot in self.readers), default=self.start) - self.start


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens are in `slot` already; (0, None) if in none."""

    length: int
    slot: Slot | None


class PrefixCache:
    """Hands out sequence ids, lowest first, and keeps the finished ones for whoever begins alike.

    n_slots ids and n_cells cells. Attention looks at all cells up to the highest used one, so parked ones cost time:
    they go while more than n_cells_kept are in use, and once max_idle_tokens were generated since their last use.
    reuse=False only counts. copies_cells: each sequence has a stream of its own, so that a copy takes cells. can_cut: a
    sequence can lose its end. Who computes adds to slot.length, num_cells and num_generated.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        n_slots: int,
        n_cells: int,
        reuse: bool,
        copies_cells: bool = False,
        can_cut: bool = True,
        n_cells_kept: int | None = None,
        max_idle_tokens: int | None = None,
    ) -> None:
        self.memory = memory
        self.n_slots = n_slots
        self.n_cells = n_cells
        self.n_cells_kept = n_cells if n_cells_kept is None else n_cells_kept
        self.max_idle_tokens = max_idle_tokens
        self.reuse = reuse
        self.num_cells = 0
        self.num_generated = 0  # tokens, by all sequences ever
        self.num_evicted = 0
        self._copies_cells = copies_cells
        self._can_cut = can_cut
        self._free_ids = list(range(n_slots))
        self._slots: dict[int, Slot] = {}
        self._parked: dict[int, Slot] = {}  # by sequence id, least recently used first
        self._computed = RadixTree()
        self._announced = RadixTree()

    @property
    def num_free(self) -> int:
        """Sequence ids that hold nothing."""
        return len(self._free_ids)

    @property
    def num_parked(self) -> int:
        """Sequence ids that hold a finished prefix."""
        return len(self._parked)

    @property
    def num_announced(self) -> int:
        """Slots that are about to compute something."""
        return len(self._announced)

    def match(self, token_ids: array[int]) -> Match:
        """The longest computed prefix of token_ids, but for the last token: its logits must be computed."""
        if not self.reuse:
            return Match(0, None)
        length, seq_id = self._computed.match(token_ids[:-1])
        return Match(length, self._slots[seq_id]) if length else Match(0, None)

    def match_announced(self, token_ids: array[int]) -> Match:
        """The longest prefix that some slot is about to compute."""
        if not self.reuse:
            return Match(0, None)
        length, seq_id = self._announced.match(token_ids[:-1])
        return Match(length, self._slots[seq_id]) if length else Match(0, None)

    def open(self, match: Match) -> Slot:
        """A new live slot that begins with the matched prefix. A parked slot is evicted if no id is free."""
        source = match.slot
        if source is not None and not self._free_ids and len(self._parked) == 1 and source.seq_id in self._parked:
            self._evict(source.seq_id)  # its id is the only one to be had
            source = None
        if source is None:
            return self._new_slot(0)
        if source.seq_id in self._parked:
            self._parked[source.seq_id] = self._parked.pop(source.seq_id)  # now the most recently used
            source.used_at = self.num_generated
        slot = self._new_slot(match.length, source)
        self.memory.seq_cp(source.seq_id, slot.seq_id, 0, match.length)
        return slot

    def fork(self, source: Slot) -> Slot:
        """A new live slot with all that the source holds; right for every kind of memory."""
        slot = self._new_slot(source.length, source)
        self.memory.seq_cp(source.seq_id, slot.seq_id, -1, -1)
        return slot

    def restore(self, slot: Slot, state: bytes, length: int) -> bool:
        """Put a stored state into an empty slot and keep its first `length` tokens; False if the memory cannot."""
        try:
            self.memory.state_seq_set(slot.seq_id, state)
        except ValueError:
            length = 0
        num_tokens = self.memory.seq_pos_max(slot.seq_id) + 1
        if num_tokens < length or (num_tokens > length and not self.memory.seq_rm(slot.seq_id, length, -1)):
            length = 0
        if length == 0:
            self.memory.seq_rm(slot.seq_id, -1, -1)
        slot.length = length
        self.num_cells += length
        return length > 0

    def announce(self, slot: Slot, token_ids: array[int]) -> None:
        """Say what a slot is about to compute, so that others may wait for it."""
        if self.reuse:
            self._announced.insert(slot.seq_id, token_ids)

    def register(self, slot: Slot, token_ids: array[int]) -> None:
        """Let others begin with token_ids[:slot.length], which the slot has computed."""
        if self.reuse:
            if slot.seq_id in self._announced:
                self._announced.remove(slot.seq_id)
            self._computed.insert(slot.seq_id, token_ids[: slot.length])

    def is_announced(self, slot: Slot) -> bool:
        """Whether this slot is still about to compute what it announced."""
        return self._slots.get(slot.seq_id) is slot and slot.seq_id in self._announced

    def park(self, slot: Slot, token_ids: array[int]) -> None:
        """Give a live slot back, and keep its cells for later if they are worth it."""
        tokens = token_ids[: slot.length]
        if not self.reuse or not tokens:
            self.free(slot)
            return
        self._forget(slot)
        length, _ = self._computed.match(tokens)
        if length == len(tokens):  # another slot holds all of it
            self.free(slot)
            return
        for seq_id in self._computed.prefixes(tokens):
            if seq_id in self._parked:
                self._evict(seq_id)  # this slot holds all of that one
        self._computed.insert(slot.seq_id, tokens)
        self._parked[slot.seq_id] = slot
        slot.used_at = self.num_generated
        while self._is_oldest_too_dear():
            self.evict_oldest()

    def free(self, slot: Slot) -> None:
        """Give a slot and the cells that only it holds back."""
        self._forget(slot)
        for segment in slot.segments:
            before = segment.num_cells()
            segment.readers.remove(slot)
            self.num_cells -= before - segment.num_cells()
        slot.segments.clear()
        slot.length = 0
        del self._slots[slot.seq_id]
        self._parked.pop(slot.seq_id, None)
        self.memory.seq_rm(slot.seq_id, -1, -1)
        heapq.heappush(self._free_ids, slot.seq_id)

    def cut(self, slot: Slot) -> bool:
        """Remove what stands behind slot.length in the memory; False where only a whole sequence can be removed."""
        return self._can_cut and self.memory.seq_rm(slot.seq_id, slot.length, -1)

    def evict_oldest(self) -> bool:
        """Free the parked slot that was used least recently; False if there is none."""
        for seq_id in self._parked:
            self._evict(seq_id)
            return True
        return False

    def make_room(self, num_cells: int) -> bool:
        """Whether num_cells more fit; parked slots are evicted for it, but none if even that would not do."""
        if self.num_cells + num_cells <= self.n_cells:
            return True
        if self.num_live_cells() + num_cells > self.n_cells:
            return False
        while self.num_cells + num_cells > self.n_cells and self.evict_oldest():
            pass
        return True

    def num_live_cells(self) -> int:
        """Cells that a live slot holds; O(slots)."""
        ends: dict[_Segment, int] = {}
        for slot in self._slots.values():
            if slot.seq_id not in self._parked:
                for segment in slot.segments:
                    ends[segment] = max(ends.get(segment, 0), _end(slot, segment))
        return sum(end - segment.start for segment, end in ends.items())

    def check_integrity(self) -> None:
        """Assert that ids, cells, trees and the memory's positions add up. For tests and debug runs."""
        assert sorted([*self._free_ids, *self._slots]) == list(range(self.n_slots)), "sequence ids are lost"
        segments = {segment for slot in self._slots.values() for segment in slot.segments}
        assert self.num_cells == sum(segment.num_cells() for segment in segments), "cells do not add up"
        assert self._parked.keys() <= self._slots.keys(), "a parked slot is gone"
        for slot in self._slots.values():
            assert all(slot in segment.readers for segment in slot.segments), "a slot lost a segment"
            assert self.memory.seq_pos_max(slot.seq_id) == slot.length - 1, f"sequence {slot.seq_id} is cut elsewhere"
        for seq_id in self._free_ids:
            assert self.memory.seq_pos_max(seq_id) == -1, f"free sequence {seq_id} holds cells"
            assert seq_id not in self._computed, "a free slot stands in the tree"
            assert seq_id not in self._announced, "a free slot stands in the tree"

    def _is_oldest_too_dear(self) -> bool:
        if not self._parked or self.num_cells > self.n_cells_kept:
            return bool(self._parked)
        oldest = next(iter(self._parked.values()))
        return self.max_idle_tokens is not None and self.num_generated - oldest.used_at > self.max_idle_tokens

    def _new_slot(self, length: int, source: Slot | None = None) -> Slot:
        if not self._free_ids:
            self._evict(next(seq_id for seq_id, slot in self._parked.items() if slot is not source))
        slot = Slot(heapq.heappop(self._free_ids), length)
        self._slots[slot.seq_id] = slot
        if source is not None and not self._copies_cells:
            for segment in source.segments:
                if segment.start < length:
                    slot.segments.append(segment)
                    segment.readers.add(slot)
        tail = _Segment(0 if self._copies_cells else length)
        tail.readers.add(slot)
        slot.segments.append(tail)
        if self._copies_cells:
            self.num_cells += length
        return slot

    def _evict(self, seq_id: int) -> None:
        self.num_evicted += 1
        self.free(self._parked[seq_id])

    def _forget(self, slot: Slot) -> None:
        for tree in (self._computed, self._announced):
            if slot.seq_id in tree:
                tree.remove(slot.seq_id)


def _end(slot: Slot, segment: _Segment) -> int:
    """Where a slot leaves a segment: at the start of its next one, or at its own end."""
    i = slot.segments.index(segment)
    return slot.segments[i + 1].start if i + 1 < len(slot.segments) else slot.length
