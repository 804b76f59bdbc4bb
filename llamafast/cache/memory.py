"""What each kind of KV memory can do: which sequences can be forked where, and by which calls."""

from __future__ import annotations

from typing import Protocol

from llamafast.cache.checkpoints import Checkpoint
from llamafast.cache.slots import Slot


class Memory(Protocol):
    """The part of a context that moves sequences about."""

    def seq_rm(self, seq_id: int, p0: int, p1: int) -> bool: ...
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None: ...
    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None: ...
    def seq_pos_min(self, seq_id: int) -> int: ...
    def seq_pos_max(self, seq_id: int) -> int: ...
    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes: ...
    def state_seq_set(self, seq_id: int, state: bytes, partial_only: bool = False) -> None: ...


class MemoryKind:
    """A memory, and how it forks. kind: as Context.memory_kind. n_swa: tokens in a sliding window, 0: there is none.

    swa_full: the memory keeps what is behind the window while there is room. copies_cells: each sequence has a stream
    of its own, so that whole sequences are copied, which takes cells. has_state: it can be forked only where a sequence
    stands or a checkpoint was taken, for a state has read all tokens. has_cells: the tokens are in there too.
    """

    def __init__(self, memory: Memory, kind: str, n_swa: int, swa_full: bool, copies_cells: bool) -> None:
        self.memory = memory
        self.copies_cells = copies_cells
        self.has_state = kind in ("hybrid", "recurrent")
        self.has_cells = kind != "recurrent"
        # A stream's copy is carried out at the next decode, over a window that was restored before.
        self.takes_checkpoints = self.has_state or not (swa_full or copies_cells)
        self._n_swa = n_swa
        # Streams whose copies the next decode carries out: until then whole states are neither read nor set there.
        self.uncopied: set[int] = set()

    def copy(self, source_id: int, seq_id: int) -> None:
        """Put all that a sequence holds into an empty one."""
        self.memory.seq_cp(source_id, seq_id, -1, -1)
        if self.copies_cells:
            self.uncopied |= {source_id, seq_id}

    def can_fork(self, slot: Slot, length: int) -> bool:
        """Whether the first `length` tokens of a slot can be taken without a checkpoint."""
        if slot.length == length:
            return True
        if self.has_state or not self._n_swa:
            return not self.has_state
        return self.memory.seq_pos_min(slot.seq_id) <= max(0, length - self._n_swa)

    def fork(self, source: Slot | None, checkpoint: Checkpoint | None, length: int, seq_id: int) -> bool:
        """Put the first `length` tokens of the source into an empty sequence; False if a window finds no room."""
        if source is not None:
            if self.copies_cells or (self.has_state and checkpoint is None):
                self.copy(source.seq_id, seq_id)
            else:
                # The state comes along as it is now, and has to be replaced by that of the place.
                self.memory.seq_cp(source.seq_id, seq_id, 0, length)
        return self.restore(source, checkpoint, length, seq_id)

    def restore(self, source: Slot | None, checkpoint: Checkpoint | None, length: int, seq_id: int) -> bool:
        """Bring a sequence that holds what the source does to the end of the first `length` tokens; False: it is empty.

        Right only where can_fork() says so, or with the checkpoint of that place.
        """
        if checkpoint is not None:
            try:
                self.memory.state_seq_set(seq_id, checkpoint.state, partial_only=True)
            except ValueError:  # no room for a window
                self.memory.seq_rm(seq_id, -1, -1)
                return False
        if checkpoint is not None or (source is not None and source.length > length):
            is_cut = self.memory.seq_rm(seq_id, length, -1)
            assert is_cut, "the memory cannot be cut where it was said to be"
        return True

    def state(self, slot: Slot) -> bytes:
        """What a checkpoint of the place where a slot stands has to hold."""
        return self.memory.state_seq_get(slot.seq_id, partial_only=True)
