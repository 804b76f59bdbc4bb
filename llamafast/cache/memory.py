"""MemoryKind: where the sequences of each kind of KV memory can be forked or cut, and by which calls."""

from __future__ import annotations

from typing import Protocol

from llamafast.cache.checkpoints import Checkpoint
from llamafast.cache.slots import Slot


class Memory(Protocol):
    """The part of a context that copies, cuts, moves and saves sequences. p0 and p1 are positions: [p0, p1)."""

    def seq_rm(self, seq_id: int, p0: int, p1: int) -> bool: ...
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None: ...
    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None: ...
    def seq_pos_min(self, seq_id: int) -> int: ...
    def seq_pos_max(self, seq_id: int) -> int: ...
    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes: ...
    def state_seq_set(self, seq_id: int, state: bytes, partial_only: bool = False) -> None: ...


class MemoryKind:
    """A memory, and how its sequences are forked and cut. Lengths count rows; calls to the memory take positions.

    kind: str, as Context.memory_kind.
    n_swa: int, positions in a sliding window; 0: no window.
    swa_full: bool, whether the memory keeps rows that have left the window.
    copies_cells: bool, whether each sequence has its own stream. A fork then copies the whole sequence into new cells.
    has_state: bool, whether the memory has a recurrent state, which has read all rows. A sequence can then be forked or
    cut only at its end or at a checkpoint.
    has_cells: bool, whether the memory has a KV cell for each row.
    takes_checkpoints: bool, whether checkpoints are needed and possible.
    uncopied: set[int], sequence ids from or to which the next decode copies a stream. Until then the whole states of
    these sequences must not be read or set.
    """

    def __init__(self, memory: Memory, kind: str, n_swa: int, swa_full: bool, copies_cells: bool) -> None:
        self.memory = memory
        self.copies_cells = copies_cells
        self.has_state = kind in ("hybrid", "recurrent")
        self.has_cells = kind != "recurrent"
        # The copy of a stream happens in the next decode and would overwrite a window that was restored before it.
        self.takes_checkpoints = self.has_state or not (swa_full or copies_cells)
        self._n_swa = n_swa
        self.uncopied: set[int] = set()

    def copy(self, source_id: int, seq_id: int) -> None:
        """Copy a whole sequence into an empty one."""
        self.memory.seq_cp(source_id, seq_id, -1, -1)
        if self.copies_cells:
            self.uncopied |= {source_id, seq_id}

    def can_fork(self, slot: Slot, length: int) -> bool:
        """Whether the first `length` rows of a slot can be forked without a checkpoint. They split no media span."""
        if slot.length == length:
            return True
        if self.has_state or not self._n_swa:
            return not self.has_state
        return self.memory.seq_pos_min(slot.seq_id) <= max(0, slot.layout.position(length) - self._n_swa)

    def fork(self, source: Slot | None, checkpoint: Checkpoint | None, length: int, seq_id: int) -> bool:
        """Copy the first `length` rows of the source into an empty sequence; False if the memory has no room."""
        if source is not None:
            if self.copies_cells or (self.has_state and checkpoint is None):
                self.copy(source.seq_id, seq_id)
            else:
                # This also copies the source's present state; restore() replaces it by the checkpoint's state.
                self.memory.seq_cp(source.seq_id, seq_id, 0, source.layout.position(length))
        return self.restore(source, checkpoint, length, seq_id)

    def restore(self, source: Slot | None, checkpoint: Checkpoint | None, length: int, seq_id: int) -> bool:
        """Cut a sequence that has the source's rows to the first `length`. False: no room, the sequence is empty.

        Needs can_fork(source, length) or a checkpoint of that length.
        """
        if checkpoint is not None:
            try:
                self.memory.state_seq_set(seq_id, checkpoint.state, partial_only=True)
            except ValueError:  # no room for a window
                self.memory.seq_rm(seq_id, -1, -1)
                return False
        holder = source or checkpoint
        if holder is not None and (checkpoint is not None or holder.length > length):
            is_cut = self.memory.seq_rm(seq_id, holder.layout.position(length), -1)
            assert is_cut, "the memory cannot be cut although can_fork() is true"
        return True

    def state(self, slot: Slot) -> bytes:
        """The state for a checkpoint of a slot's present length."""
        return self.memory.state_seq_get(slot.seq_id, partial_only=True)
