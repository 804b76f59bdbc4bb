"""SlotPool: sequence ids, the slots that use them, and the KV cells that the slots hold."""

from __future__ import annotations

import heapq
from array import array

from llamafast.cache.checkpoints import Checkpoint
from llamafast.cache.memory import MemoryKind
from llamafast.cache.parked import ParkedSlots
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.slot_states import SlotStates
from llamafast.cache.slots import Slot, num_held


class SlotPool:
    """Opens and frees slots, and counts their cells. A slot is live (a sequence uses it) or parked.

    n_slots: int, number of sequence ids.
    num_cells: int, number of KV cells that at least one slot holds.
    kind, index, states, parked: the memory, the index of rows, the checkpoints and the parked slots. PrefixCache and
    Eviction use the same objects.
    """

    def __init__(
        self, kind: MemoryKind, index: PrefixIndex, states: SlotStates, parked: ParkedSlots, n_slots: int
    ) -> None:
        self.n_slots = n_slots
        self.num_cells = 0
        self.kind = kind
        self.index = index
        self.states = states
        self.parked = parked
        self._free_ids = list(range(n_slots))
        self._slots: dict[int, Slot] = {}

    @property
    def num_free(self) -> int:
        """Number of sequence ids without a slot."""
        return len(self._free_ids)

    @property
    def lowest_free_id(self) -> int | None:
        """The lowest sequence id without a slot; None if every id has one."""
        return self._free_ids[0] if self._free_ids else None

    def slots(self) -> list[Slot]:
        """All slots, live and parked."""
        return list(self._slots.values())

    def slot(self, seq_id: int) -> Slot | None:
        """The slot that uses a sequence id; None if the id is free."""
        return self._slots.get(seq_id)

    def reserve_id(self) -> int:
        """Take the highest sequence id out of the pool for another use. Call it before the first open()."""
        self.n_slots -= 1
        return self._free_ids.pop()

    def take_id(self) -> int:
        """Take the lowest free sequence id. At least one must be free."""
        return heapq.heappop(self._free_ids)

    def take_settled_id(self) -> int | None:
        """Take the lowest free sequence id that no pending copy reads or writes; None without one."""
        seq_id = min((i for i in self._free_ids if i not in self.kind.uncopied), default=None)
        if seq_id is not None:
            self._free_ids.remove(seq_id)
            heapq.heapify(self._free_ids)
        return seq_id

    def open(self, seq_id: int, length: int, source: Slot | None, salt: str | None) -> Slot:
        """A new live slot. Its sequence must already hold the first `length` rows of the source.

        seq_id: a taken id. source: the slot that shares its cells; None: no other slot does.
        """
        slot = Slot(seq_id, length, salt)
        self._slots[seq_id] = slot
        if source is None or self.kind.copies_cells:
            slot.grow_from(0)
            self.num_cells += length
        else:
            slot.share(source, length)
            slot.grow_from(length)
        return slot

    def free(self, slot: Slot) -> None:
        """Release a slot, its sequence id, and the cells that no other slot holds."""
        tokens = self.index.tokens(slot)
        self.index.forget(slot)
        self.shorten(slot, 0)
        slot.segments.clear()
        slot.places.clear()
        del self._slots[slot.seq_id]
        self.parked.discard(slot)
        self.kind.memory.seq_rm(slot.seq_id, -1, -1)
        heapq.heappush(self._free_ids, slot.seq_id)
        self.states.drop(tokens, slot.salt)

    def shorten(self, slot: Slot, length: int) -> None:
        """Reduce the recorded rows of a slot to the first `length`. The memory does not change."""
        self.num_cells -= slot.shorten(length)

    def cut_back(self, slot: Slot, length: int, checkpoint: Checkpoint | None) -> None:
        """Cut a slot to its first `length` rows, or to 0 if the memory has no room for the checkpoint's state."""
        is_restored = self.kind.restore(slot, checkpoint, length, slot.seq_id)
        self.shorten(slot, length if is_restored else 0)

    def last_cut(self, slot: Slot, tokens: array[int], length: int) -> tuple[int, Checkpoint | None]:
        """The largest length, at most `length`, to which a slot can be cut, and the checkpoint that the cut needs.

        tokens: the ids of the slot's rows. Returns (0, None) if it can be cut nowhere.
        """
        length = slot.layout.round_down(length)
        if self.kind.can_fork(slot, length):
            return length, None
        checkpoint = None if slot.salt is None else self.states.store.find(tokens, slot.salt, length, slot.layout)
        return (0, None) if checkpoint is None else (checkpoint.length, checkpoint)

    def cut_unusable(self, slot: Slot, token_ids: array[int]) -> bool:
        """Cut the rows of a live slot that no other slot can use: moved rows, and a part of a media span.

        Returns False if no row is left. token_ids: ids that begin with those of the slot's rows.
        """
        if slot.num_unmoved is not None:
            self.kind.memory.seq_rm(slot.seq_id, slot.num_unmoved, -1)
            self.shorten(slot, slot.num_unmoved)
            slot.num_unmoved = None
        if slot.layout.round_down(slot.length) < slot.length:
            tokens = token_ids[: slot.length]
            length, checkpoint = self.last_cut(slot, tokens, slot.length)
            if not length:
                return False
            self.index.forget(slot)
            self.cut_back(slot, length, checkpoint)
            self.states.drop(tokens, slot.salt, slot.length)
        return slot.length > 0

    def shift(self, slot: Slot, num_kept: int, num_dropped: int) -> bool:
        """Remove num_dropped rows after the first num_kept rows of a live slot, and move the following rows up.

        Returns False and changes nothing if another slot holds a cell that must move, because it would move there, too.
        Moved rows were computed after tokens that are now removed, so other slots never reuse them. Only for memories
        that can shift, and for slots without media.
        """
        assert not slot.layout.media, "rows of media cannot move"
        start = num_kept + num_dropped
        if not slot.holds_alone(start):
            return False
        memory = self.kind.memory
        is_cut = memory.seq_rm(slot.seq_id, num_kept, start)
        assert is_cut, "a memory that can shift can be cut anywhere"
        memory.seq_add(slot.seq_id, start, slot.length, -num_dropped)
        self.num_cells -= slot.drop(num_kept, num_dropped)
        slot.num_unmoved = num_kept if slot.num_unmoved is None else min(num_kept, slot.num_unmoved)
        tokens = self.index.tokens(slot)[: slot.num_unmoved]
        self.index.forget(slot)
        if tokens:
            self.index.hold(slot, tokens)
        return True

    def move(self, slot: Slot) -> None:
        """Move a parked slot to the lowest free id. Only for memories with a stream per sequence."""
        seq_id, tokens = slot.seq_id, self.index.tokens(slot)
        self.index.forget(slot)
        slot.seq_id = self.take_id()
        self.kind.copy(seq_id, slot.seq_id)
        self.kind.memory.seq_rm(seq_id, -1, -1)
        heapq.heappush(self._free_ids, seq_id)
        self.index.hold(slot, tokens)
        del self._slots[seq_id]
        self._slots[slot.seq_id] = slot
        self.parked.renumber()

    def num_live_cells(self) -> int:
        """Number of cells that at least one live slot holds; O(slots)."""
        return num_held(slot for slot in self._slots.values() if slot not in self.parked)

    def check_integrity(self) -> None:
        """Assert that ids, cells and the memory's positions are consistent. For tests and debug runs."""
        memory = self.kind.memory
        assert sorted([*self._free_ids, *self._slots]) == list(range(self.n_slots)), "sequence ids are lost"
        segments = {segment for slot in self._slots.values() for segment in slot.segments}
        assert self.num_cells == sum(segment.num_cells() for segment in segments), "num_cells is wrong"
        assert all(self._slots.get(slot.seq_id) is slot for slot in self.parked), "a parked slot is gone"
        for slot in self._slots.values():
            slot.check_integrity()
            pos_max = slot.layout.pos_max(slot.length)
            assert memory.seq_pos_max(slot.seq_id) == pos_max, f"sequence {slot.seq_id} is cut elsewhere"
        for seq_id in self._free_ids:
            assert memory.seq_pos_max(seq_id) == -1, f"free sequence {seq_id} holds cells"
            assert seq_id not in self.index, "the index contains a free slot"
