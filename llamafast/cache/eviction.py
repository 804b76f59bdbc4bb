"""Eviction: frees parked prefixes, whole or in part, when sequence ids or cells run out or a prefix is idle."""

from __future__ import annotations

from array import array

from llamafast.cache.slot_pool import SlotPool
from llamafast.cache.slots import Slot

# A parked slot loses only its last cells, at least _MIN_FREED at a time, as long as _MIN_LEFT of its own cells remain:
# the beginning of a prompt is more likely to be reused than its end.
_MIN_FREED = 64
_MIN_LEFT = 64


class Eviction:
    """Frees sequence ids and cells of parked slots. Live slots are never touched.

    n_cells: int, number of KV cells of the memory.
    n_cells_kept: int, limit of the cells in use above which parked slots are evicted.
    num_generated: int, tokens that all sequences have generated so far. Idle times are measured with it.
    num_evicted: int, number of evictions so far. An eviction takes all cells of a slot or a part of them.
    """

    def __init__(self, pool: SlotPool, n_cells: int, n_cells_kept: int) -> None:
        self.n_cells = n_cells
        self.n_cells_kept = n_cells_kept
        self.num_generated = 0
        self.num_evicted = 0
        self._pool = pool
        self._parked = pool.parked

    def take_id(self, source: Slot | None) -> int | None:
        """A sequence id without cells. None if only the id of `source` itself is available.

        Streams can share a ubatch only if their ids are adjacent. So a memory with streams uses the lowest id: if a
        parked slot has it, that slot is moved to another id or evicted, unless it is the source.
        """
        pool = self._pool
        lowest = self._parked.lowest() if pool.kind.copies_cells else None
        free_id = pool.lowest_free_id
        if free_id is not None and (lowest is None or lowest.seq_id > free_id):
            return pool.take_id()
        if lowest is not None and lowest is source:
            return None
        if free_id is None:
            victim = self._parked.cheapest_id(source)
            if victim is None:
                return None
            self.evict_slot(victim)
        if lowest is not None and lowest in self._parked:
            pool.move(lowest)
        return pool.take_id()

    def take_settled_id(self) -> int | None:
        """A sequence id without cells that no pending copy reads or writes; None if there is none."""
        victim = None if self._pool.num_free else self._parked.cheapest_id(None)
        if victim is not None:
            self.evict_slot(victim)
        return self._pool.take_settled_id()

    def evict(self) -> bool:
        """Free the parked slot with the lowest weight per cell; False if no slot is parked."""
        victim = self._parked.cheapest_cells()
        if victim is not None:
            self.evict_slot(victim)
        return victim is not None

    def evict_slot(self, slot: Slot) -> None:
        """Free a parked slot, and remember its rows."""
        self.num_evicted += 1
        self._pool.index.remember(slot)
        self._pool.free(slot)

    def give_way(self, num_cells: int) -> bool:
        """Free cells after a step that needs num_cells found no room; False if no slot is parked."""
        if not self._parked:
            return False
        # The memory can be fragmented: it found no room although enough cells are free.
        has_room = self._pool.num_cells + num_cells <= self.n_cells
        return self.evict() if has_room or not self.make_room(num_cells) else True

    def make_room(self, num_cells: int) -> bool:
        """Whether num_cells more cells fit. Evicts parked slots if that is necessary and sufficient."""
        if self._pool.num_cells + num_cells <= self.n_cells:
            return True
        if self._pool.num_live_cells() + num_cells > self.n_cells:
            return False
        while (missing := self._pool.num_cells + num_cells - self.n_cells) > 0 and self._free_cells(missing):
            pass
        return True

    def drop_idle(self) -> None:
        """Free idle parked slots, and cells above n_cells_kept. Call it after each step; O(1) if there are none."""
        now, parked = self.num_generated, self._parked
        while (idle := parked.take_idle(now)) is not None:
            self.evict_slot(idle)
        while (surplus := self._pool.num_cells - self.n_cells_kept) > 0 and self._free_cells(surplus):
            pass
        parked.calm_down(now)

    def regret(self, token_ids: array[int], salt: str | None, length: int) -> None:
        """Keep idle slots longer if many more than `length` rows of a prompt were evicted recently.

        length: number of rows of the prompt that the cache has now.
        """
        if salt is not None:
            num_dropped, used_at = self._pool.index.evicted(token_ids, salt)
            self._parked.regret(num_dropped - length, used_at, self.num_generated)

    def _free_cells(self, num_cells: int) -> bool:
        """Free the last cells, or all, of the parked slot with the lowest weight per cell; False if none is parked."""
        victim = self._parked.cheapest_cells()
        if victim is None:
            return False
        num_left = victim.num_own - max(num_cells, _MIN_FREED)
        length = victim.length - victim.num_own + num_left
        if num_left < _MIN_LEFT or not self._give_tail(victim, length):
            self.evict_slot(victim)
        return True

    def _give_tail(self, slot: Slot, length: int) -> bool:
        """Cut a parked slot to `length` rows, or to the last shorter length where it can be cut; False: it cannot."""
        assert slot.salt is not None, "a slot without a salt is not parked"
        pool = self._pool
        tokens = pool.index.tokens(slot)
        length, checkpoint = pool.last_cut(slot, tokens, length)
        if length <= slot.length - slot.num_own:
            return False
        self.num_evicted += 1
        pool.index.remember(slot)
        pool.index.forget(slot)
        pool.cut_back(slot, length, checkpoint)
        if slot.length:
            pool.index.hold(slot, tokens[:length])
        else:
            pool.free(slot)
        pool.states.drop(tokens, slot.salt, slot.length)
        return True
