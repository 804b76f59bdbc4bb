"""Who owns which KV cells: sequence ids, shared prefixes, parked prefixes, and how many cells are in use."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence

from llamafast.cache.checkpoints import Checkpoint, CheckpointStore
from llamafast.cache.lookup import Match, PrefixLookup
from llamafast.cache.memory import Memory, MemoryKind
from llamafast.cache.parked import ParkedSlots
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.slot_states import SlotStates
from llamafast.cache.slots import Slot, num_held

# A parked slot gives its last cells, so many at least, if so many of its own are left: the beginning is worth more.
_MIN_FREED = 64
_MIN_LEFT = 64


class PrefixCache:
    """Hands out sequence ids, lowest first, and keeps the finished ones for whoever begins alike.

    n_slots ids and n_cells cells. kind, n_swa, swa_full, copies_cells: see MemoryKind. reuse=False only counts.
    Attention looks at all cells up to the highest used one, so parked ones cost time: they go while more than
    n_cells_kept are in use, and once max_idle_tokens were generated since their last use (more, where dropped ones were
    asked for again). Hybrid and recurrent memories, and windows that moved on, can be forked only where a sequence
    stands or a checkpoint was taken.
    Who computes calls advance(), and adds to num_cells and num_generated.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        n_slots: int,
        n_cells: int,
        reuse: bool,
        kind: str = "attention",
        n_swa: int = 0,
        swa_full: bool = True,
        copies_cells: bool = False,
        n_cells_kept: int | None = None,
        max_idle_tokens: int | None = None,
        max_checkpoint_bytes: int = 1 << 30,
        checkpoint_every: int = 512,
    ) -> None:
        self.memory = memory
        self.n_slots = n_slots
        self.n_cells = n_cells
        self.n_cells_kept = n_cells if n_cells_kept is None else n_cells_kept
        self.reuse = reuse
        self.checkpoints = CheckpointStore(max_checkpoint_bytes)
        self.num_cells = 0
        self.num_generated = 0  # tokens, by all sequences ever
        self.num_evicted = 0
        self._kind = MemoryKind(memory, kind, n_swa, swa_full, copies_cells)
        self._free_ids = list(range(n_slots))
        self._slots: dict[int, Slot] = {}
        self._index = PrefixIndex()
        self._lookup = PrefixLookup(self._kind, self._index, self.checkpoints, reuse=reuse)
        self._states = SlotStates(self._kind, self._index, self.checkpoints, every=checkpoint_every, enabled=reuse)
        self._parked = ParkedSlots(max_idle_tokens, self._states.num_computed_again)

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
        return self._index.num_announced

    def reserve_id(self) -> int:
        """Leave the highest sequence id to the caller for good; to be called before the first open()."""
        self.n_slots -= 1
        return self._free_ids.pop()

    def match(self, token_ids: array[int], salt: str | None = "") -> Match:
        """As PrefixLookup.match."""
        return self._lookup.match(token_ids, salt)

    def match_announced(self, token_ids: array[int], salt: str | None = "") -> Match:
        """As PrefixLookup.match_announced."""
        return self._lookup.match_announced(token_ids, salt)

    def miss_reason(self, token_ids: array[int], salt: str | None, length: int) -> str:
        """As PrefixLookup.miss_reason."""
        return self._lookup.miss_reason(token_ids, salt, length)

    def open(self, match: Match, salt: str | None = "") -> Slot:
        """A new live slot that begins with the matched prefix. A parked slot is evicted if no id is free.

        Its length is 0 if the memory has no room for the state of the prefix.
        """
        source, checkpoint = match.slot, match.checkpoint
        goes_on = source is not None and 0 < source.turn_end <= match.length
        num_turns = source.num_turns + 1 if source is not None and goes_on else 1
        if checkpoint is not None:
            self.checkpoints.touch(checkpoint)
        if source is not None and source in self._parked:
            self._parked.use(source, self.num_generated)
            self._parked.want(source, match.length)
        seq_id = self._take_id(source)
        if seq_id is None:
            assert source is not None
            slot = self._take_over(source, match, salt)
        else:
            length = match.length if self._kind.fork(source, checkpoint, match.length, seq_id) else 0
            slot = self._new_slot(seq_id, length, source if length else None, salt)
        slot.num_turns = num_turns
        return slot

    def open_empty(self, salt: str | None) -> Slot | None:
        """A new live slot whose state can be set at once; None: before the next decode there is none."""
        victim = None if self._free_ids else self._parked.cheapest_id(None)
        if victim is not None:
            self._evict(victim)
        seq_id = min((i for i in self._free_ids if i not in self._kind.uncopied), default=None)
        if seq_id is None:
            return None
        self._free_ids.remove(seq_id)
        heapq.heapify(self._free_ids)
        return self._new_slot(seq_id, 0, None, salt)

    def is_copied(self, slot: Slot) -> bool:
        """Whether its whole state can be read: no copy of it is still to be carried out."""
        return slot.seq_id not in self._kind.uncopied

    def note_decode(self) -> None:
        """To be called after each decode: it has carried out all copies."""
        self._kind.uncopied.clear()

    def fork(self, source: Slot) -> Slot:
        """A new live slot with all that the source holds; right for every kind of memory."""
        seq_id = self._take_id(source)
        assert seq_id is not None, "a live slot cannot be taken over"
        self._kind.copy(source.seq_id, seq_id)
        slot = self._new_slot(seq_id, source.length, source, source.salt)
        slot.num_turns, slot.turn_end = source.num_turns, source.turn_end
        return slot

    def announce(self, slot: Slot, token_ids: array[int], boundaries: Sequence[int] = ()) -> None:
        """Say what a slot is about to compute, so that others may wait for it; plan its checkpoints."""
        if not self.reuse or slot.salt is None:
            return
        self._index.announce(slot, token_ids)
        self._states.plan(slot, len(token_ids), boundaries)
        slot.turn_end = boundaries[-1] if boundaries else len(token_ids) - 1

    def stop_at(self, slot: Slot, place: int) -> None:
        """Have a checkpoint taken at a place that the slot has not passed, if this memory needs one."""
        self._states.stop_at(slot, place)

    def advance(self, slot: Slot, num_tokens: int, token_ids: array[int]) -> None:
        """Book num_tokens more of token_ids as computed; a checkpoint is taken if this is the place."""
        slot.length += num_tokens
        if self.reuse:
            self._index.hold(slot, token_ids[: slot.length])
            self._states.reached(slot, token_ids[: slot.length])

    def register(self, slot: Slot, token_ids: array[int]) -> None:
        """Let others begin with token_ids[:slot.length], which the slot has computed."""
        if self.reuse:
            self._index.settle(slot)
            self._index.hold(slot, token_ids[: slot.length])

    def is_announced(self, slot: Slot) -> bool:
        """Whether this slot is still about to compute what it announced."""
        return self._index.is_announced(slot)

    def park(self, slot: Slot, token_ids: array[int]) -> None:
        """Give a live slot back, and keep its cells for later if they are worth it."""
        if slot.num_unmoved is not None:
            self.memory.seq_rm(slot.seq_id, slot.num_unmoved, -1)
            self.num_cells -= slot.shorten(slot.num_unmoved)
            slot.num_unmoved = None
        tokens, salt = token_ids[: slot.length], slot.salt
        if not self.reuse or not tokens or salt is None:
            self.free(slot)
            return
        self._index.forget(slot)
        slot.places.clear()
        length, _ = self._index.longest(tokens, salt)
        if length == len(tokens):  # another slot holds all of it
            self._states.keep(slot, tokens)
            self.free(slot)
            return
        shorter = self._index.whole_prefixes(tokens, salt)
        self._index.hold(slot, tokens)
        for other in shorter:
            if other in self._parked:  # this slot holds all of that one
                self._states.keep(other, tokens[: other.length])
                self.free(other)
        self._parked.use(slot, self.num_generated)
        self.drop_idle()

    def free(self, slot: Slot) -> None:
        """Give a slot and the cells that only it holds back."""
        tokens = self._index.tokens(slot)
        self._index.forget(slot)
        self.num_cells -= slot.shorten(0)
        slot.segments.clear()
        slot.places.clear()
        del self._slots[slot.seq_id]
        self._parked.discard(slot)
        self.memory.seq_rm(slot.seq_id, -1, -1)
        heapq.heappush(self._free_ids, slot.seq_id)
        self._states.drop(tokens, slot.salt)

    def cut(self, slot: Slot) -> bool:
        """Remove what stands behind slot.length in the memory; False where only a whole sequence can be removed."""
        return self._kind.can_cut and self.memory.seq_rm(slot.seq_id, slot.length, -1)

    def shift(self, slot: Slot, num_kept: int, num_dropped: int) -> bool:
        """Remove num_dropped tokens behind the first num_kept of a live slot, and move up what stands behind them.

        False, and nothing is done, where another slot holds a cell that would move, and so would move there too. What
        has moved was computed behind other tokens than those that it now follows: nobody else ever gets it. Only for
        memories that can shift.
        """
        start = num_kept + num_dropped
        if not slot.holds_alone(start):
            return False
        is_cut = self.memory.seq_rm(slot.seq_id, num_kept, start)
        assert is_cut, "a memory that can shift can be cut anywhere"
        self.memory.seq_add(slot.seq_id, start, slot.length, -num_dropped)
        self.num_cells -= slot.drop(num_kept, num_dropped)
        slot.num_unmoved = num_kept if slot.num_unmoved is None else min(num_kept, slot.num_unmoved)
        tokens = self._index.tokens(slot)[: slot.num_unmoved]
        self._index.forget(slot)
        if tokens:
            self._index.hold(slot, tokens)
        return True

    def evict(self) -> bool:
        """Free the parked slot whose cells are worth least; False: none is parked."""
        victim = self._parked.cheapest_cells()
        if victim is not None:
            self._evict(victim)
        return victim is not None

    def give_way(self, num_cells: int) -> bool:
        """After a step of num_cells found no room: parked slots give some; False: none is parked."""
        if not self._parked:
            return False
        has_room = self.num_cells + num_cells <= self.n_cells  # but the memory says otherwise
        return self.evict() if has_room or not self.make_room(num_cells) else True

    def drop_idle(self) -> None:
        """Free the parked slots that cost more than they are likely to save; to be called after each step, O(1)."""
        while (idle := self._parked.take_idle(self.num_generated)) is not None:
            self._evict(idle)
        while self.num_cells > self.n_cells_kept and self._free_cells(self.num_cells - self.n_cells_kept):
            pass
        self._parked.calm_down(self.num_generated)

    def regret(self, token_ids: array[int], salt: str | None, length: int) -> None:
        """A prompt found `length` of its tokens: if many more were dropped not long ago, keep idle ones longer."""
        if salt is not None:
            num_dropped, used_at = self._index.evicted(token_ids, salt)
            self._parked.regret(num_dropped - length, used_at, self.num_generated)

    def make_room(self, num_cells: int) -> bool:
        """Whether num_cells more fit; parked slots are evicted for it, but none if even that would not do."""
        if self.num_cells + num_cells <= self.n_cells:
            return True
        if self.num_live_cells() + num_cells > self.n_cells:
            return False
        while self.num_cells + num_cells > self.n_cells and self._free_cells(self.num_cells + num_cells - self.n_cells):
            pass
        return True

    def num_live_cells(self) -> int:
        """Cells that a live slot holds; O(slots)."""
        return num_held(slot for slot in self._slots.values() if slot not in self._parked)

    def check_integrity(self) -> None:
        """Assert that ids, cells, trees, checkpoints and the memory's positions add up. For tests and debug runs."""
        assert sorted([*self._free_ids, *self._slots]) == list(range(self.n_slots)), "sequence ids are lost"
        segments = {segment for slot in self._slots.values() for segment in slot.segments}
        assert self.num_cells == sum(segment.num_cells() for segment in segments), "cells do not add up"
        assert all(self._slots.get(slot.seq_id) is slot for slot in self._parked), "a parked slot is gone"
        for slot in self._slots.values():
            slot.check_integrity()
            assert self.memory.seq_pos_max(slot.seq_id) == slot.length - 1, f"sequence {slot.seq_id} is cut elsewhere"
            assert slot.num_unmoved is None or slot.num_listed <= slot.num_unmoved, "others find what has moved"
            assert slot.next_place is None or slot.next_place > slot.length, "a checkpoint was not taken"
        for seq_id in self._free_ids:
            assert self.memory.seq_pos_max(seq_id) == -1, f"free sequence {seq_id} holds cells"
            assert seq_id not in self._index, "a free slot stands in the index"
        self.checkpoints.check_integrity()
        if self._kind.has_cells:
            for tokens, salt in self.checkpoints.prefixes():
                assert self._index.longest(tokens, salt)[0] == len(tokens), "a checkpoint has lost its cells"

    def _take_id(self, source: Slot | None) -> int | None:
        """A sequence id without cells; None if that of the source itself has to do.

        Streams share a ubatch only where ids follow each other, so there the lowest one is taken: a parked slot that
        stands there moves to another id, or is the source, or goes.
        """
        lowest = self._parked.lowest() if self._kind.copies_cells else None
        if self._free_ids and (lowest is None or lowest.seq_id > self._free_ids[0]):
            return heapq.heappop(self._free_ids)
        if lowest is not None and lowest is source:
            return None
        if not self._free_ids:
            victim = self._parked.cheapest_id(source)
            if victim is None:
                return None
            self._evict(victim)
        if lowest is not None and lowest in self._parked:
            self._move(lowest)
        return heapq.heappop(self._free_ids)

    def _move(self, slot: Slot) -> None:
        """Give a parked slot's id free for a live one; its stream is copied."""
        seq_id, tokens = slot.seq_id, self._index.tokens(slot)
        self._index.forget(slot)
        slot.seq_id = heapq.heappop(self._free_ids)
        self._kind.copy(seq_id, slot.seq_id)
        self.memory.seq_rm(seq_id, -1, -1)
        heapq.heappush(self._free_ids, seq_id)
        self._index.hold(slot, tokens)
        del self._slots[seq_id]
        self._slots[slot.seq_id] = slot
        self._parked.renumber()

    def _take_over(self, slot: Slot, match: Match, salt: str | None) -> Slot:
        """Make a parked slot live again, cut to the matched prefix."""
        tokens = self._index.tokens(slot)
        self._parked.discard(slot)
        if slot.length == match.length:
            self._states.keep(slot, tokens)
        self._index.forget(slot)
        self._cut_back(slot, match.length, match.checkpoint)
        slot.salt = salt
        self._states.drop(tokens, salt, match.length)
        return slot

    def _cut_back(self, slot: Slot, length: int, checkpoint: Checkpoint | None) -> None:
        """Leave the first `length` tokens to a slot, none if the memory has no room for the state behind them."""
        is_there = self._kind.restore(slot, checkpoint, length, slot.seq_id)
        self.num_cells -= slot.shorten(length if is_there else 0)

    def _free_cells(self, num_cells: int) -> bool:
        """Take cells from the parked slot whose are worth least, its last ones if it has many more; False: none."""
        victim = self._parked.cheapest_cells()
        if victim is None:
            return False
        num_left = victim.num_own - max(num_cells, _MIN_FREED)
        length = victim.length - victim.num_own + num_left
        if num_left < _MIN_LEFT or not self._give_tail(victim, length):
            self._evict(victim)
        return True

    def _give_tail(self, slot: Slot, length: int) -> bool:
        """Cut a parked slot to `length` tokens, or to the last place before that it can be cut; False: nowhere."""
        assert slot.salt is not None, "what is for nobody else is not parked"
        tokens, checkpoint = self._index.tokens(slot), None
        if not self._kind.can_fork(slot, length):
            checkpoint = self.checkpoints.find(tokens, slot.salt, length)
            if checkpoint is None or checkpoint.length <= slot.length - slot.num_own:
                return False
            length = checkpoint.length
        self.num_evicted += 1
        self._index.remember(slot)
        self._index.forget(slot)
        self._cut_back(slot, length, checkpoint)
        if slot.length:
            self._index.hold(slot, tokens[:length])
        else:
            self.free(slot)
        self._states.drop(tokens, slot.salt, slot.length)
        return True

    def _new_slot(self, seq_id: int, length: int, source: Slot | None, salt: str | None) -> Slot:
        slot = Slot(seq_id, length, salt)
        self._slots[seq_id] = slot
        if source is None or self._kind.copies_cells:
            slot.grow_from(0)
            self.num_cells += length
        else:
            slot.share(source, length)
            slot.grow_from(length)
        return slot

    def _evict(self, slot: Slot) -> None:
        self.num_evicted += 1
        self._index.remember(slot)
        self.free(slot)
