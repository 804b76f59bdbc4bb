"""Which parked prefixes go, and how much of them, when sequence ids, cells or time run out."""

from __future__ import annotations

from array import array

from llamafast.cache.slot_pool import SlotPool
from llamafast.cache.slots import Slot

# A parked slot gives up only its last cells, in portions of _MIN_FREED, while _MIN_LEFT of its own remain: the
# beginning of a prompt is more likely to be used again than its end.
_MIN_FREED = 64
_MIN_LEFT = 64


class Eviction:
    """Frees sequence ids and cells of parked slots. Live slots are never touched.

    n_cells: int, KV cells that the memory has.
    n_cells_kept: int, parked slots are evicted while more cells than this are in use.
    num_generated: int, tokens that all sequences have generated so far; the clock of idle times.
    num_evicted: int, number of slots that lost all or a part of their cells.
    """

    def __init__(self, pool: SlotPool, n_cells: int, n_cells_kept: int) -> None:
        self.n_cells = n_cells
        self.n_cells_kept = n_cells_kept
        self.num_generated = 0
        self.num_evicted = 0
        self._pool = pool
        self._parked = pool.parked

    def take_id(self, source: Slot | None) -> int | None:
        """A sequence id without cells; None if only the source's own id is left.

        Streams share a ubatch only if their ids are adjacent, so there the lowest id is taken: a parked slot that uses
        it moves to another id, or is the source, or is evicted.
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
        """A sequence id without cells that no pending copy reads or writes; None without one."""
        victim = None if self._pool.num_free else self._parked.cheapest_id(None)
        if victim is not None:
            self.evict_slot(victim)
        return self._pool.take_settled_id()

    def evict(self) -> bool:
        """Free the parked slot whose cells are worth least; False if none is parked."""
        victim = self._parked.cheapest_cells()
        if victim is not None:
            self.evict_slot(victim)
        return victim is not None

    def evict_slot(self, slot: Slot) -> None:
        """Free a parked slot, and remember what it held."""
        self.num_evicted += 1
        self._pool.index.remember(slot)
        self._pool.free(slot)

    def give_way(self, num_cells: int) -> bool:
        """Free cells after a step that needs num_cells failed for lack of room; False if no slot is parked."""
        if not self._parked:
            return False
        has_room = self._pool.num_cells + num_cells <= self.n_cells  # the memory found none all the same
        return self.evict() if has_room or not self.make_room(num_cells) else True

    def make_room(self, num_cells: int) -> bool:
        """Whether num_cells more fit. Parked slots are evicted for them, unless even that would not be enough."""
        if self._pool.num_cells + num_cells <= self.n_cells:
            return True
        if self._pool.num_live_cells() + num_cells > self.n_cells:
            return False
        while (missing := self._pool.num_cells + num_cells - self.n_cells) > 0 and self._free_cells(missing):
            pass
        return True

    def drop_idle(self) -> None:
        """Free the parked slots that cost more than they are likely to save. Call it after each step; O(1)."""
        now, parked = self.num_generated, self._parked
        while (idle := parked.take_idle(now)) is not None:
            self.evict_slot(idle)
        while (surplus := self._pool.num_cells - self.n_cells_kept) > 0 and self._free_cells(surplus):
            pass
        parked.calm_down(now)

    def regret(self, token_ids: array[int], salt: str | None, length: int) -> None:
        """Keep idle slots longer if many more than `length` rows of a prompt were evicted a short time ago.

        length: rows of the prompt that the cache has now.
        """
        if salt is not None:
            num_dropped, used_at = self._pool.index.evicted(token_ids, salt)
            self._parked.regret(num_dropped - length, used_at, self.num_generated)

    def _free_cells(self, num_cells: int) -> bool:
        """Free cells of the parked slot whose cells are worth least: its last ones, or all. False if none is parked."""
        victim = self._parked.cheapest_cells()
        if victim is None:
            return False
        num_left = victim.num_own - max(num_cells, _MIN_FREED)
        length = victim.length - victim.num_own + num_left
        if num_left < _MIN_LEFT or not self._give_tail(victim, length):
            self.evict_slot(victim)
        return True

    def _give_tail(self, slot: Slot, length: int) -> bool:
        """Cut a parked slot to `length` rows, or to the last place before them where it can be cut; False: nowhere."""
        assert slot.salt is not None, "what is for nobody else is not parked"
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
