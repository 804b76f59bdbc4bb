"""Copies states out of the memory for the disk cache, one slice per step, so that no step is delayed for long."""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from llamafast.cache.disk.disk_cache import DiskCache
from llamafast.cache.memory import Memory
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.cache.prompt import Layout
from llamafast.cache.slots import Slot

# Bytes that one step copies. They take 2 to 5 ms.
SLICE_BYTES = 8 * 2**20
# A state that can only be copied as a whole and is larger is copied when no request runs.
MAX_BYTES_AT_ONCE = 64 * 2**20
_FIRST_SLICE = 64  # rows of the first slice: the bytes per row are not known yet

_MAGIC = b"LLFSLICE"  # a state of llama.cpp begins with a small number, its streams
_HEAD = struct.Struct("<8sI")
_SLICE = struct.Struct("<QQ")


class StateMemory(Protocol):
    """The part of a context that copies a sequence's state to bytes."""

    def state_seq_size(self, seq_id: int) -> int: ...
    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes: ...


@dataclass(slots=True)
class _Copy:
    """A state that is being copied.

    token_ids, layout: the rows.
    salt: the salt of the slot that holds them.
    slices: the copied slices.
    lengths: number of rows of each slice.
    """

    token_ids: array[int]
    salt: str
    layout: Layout
    slices: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """Number of rows copied."""
        return sum(self.lengths)

    def covers(self, other: _Copy) -> bool:
        """Whether the other's rows are the first rows of this one."""
        n = len(other.token_ids)
        is_prefix = self.salt == other.salt and self.token_ids[:n] == other.token_ids
        return is_prefix and self.layout.common(other.layout, n) == n


class StateCopies:
    """Copies the states of parked prefixes, and passes each to the disk cache when its copy is complete.

    disk: stores the states. cache: holds the prefixes. context: copies a sequence's state to bytes.
    spare_id: int, an unused sequence id. A part of a sequence is shared with it and copied from there.
    None: the memory cannot share parts of sequences, so states are copied as a whole.

    Runs on the engine's thread. If a prefix is evicted before its copy is complete, the copied part is stored.
    """

    def __init__(self, disk: DiskCache, cache: PrefixCache, context: StateMemory, spare_id: int | None) -> None:
        self._disk = disk
        self._cache = cache
        self._context = context
        self._spare_id = spare_id
        self._slice_tokens = _FIRST_SLICE
        self._waiting: deque[_Copy] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, token_ids: array[int], salt: str, layout: Layout) -> None:
        """Queue the state after token_ids. From the next step on, a slot must hold these rows."""
        new = _Copy(token_ids, salt, layout)
        for old in list(self._waiting):
            if self._disk.can_cut and old.covers(new):
                return
            if self._disk.can_cut and new.covers(old):  # the conversation continued: its copy continues too
                new.slices, new.lengths = old.slices, old.lengths
                self._waiting.remove(old)
        self._waiting.append(new)

    def copy_now(self, slot: Slot, token_ids: array[int], salt: str) -> None:
        """Copy the state of a slot with the rows token_ids at once. A large one is dropped if other sequences run."""
        if self._num_live > 1 and self._context.state_seq_size(slot.seq_id) > MAX_BYTES_AT_ONCE:
            self._disk.stats.dropped += 1
        else:
            state = self._context.state_seq_get(slot.seq_id)
            self._disk.store(token_ids, salt, state, layout=slot.layout.upto(len(token_ids)))

    def step(self, *, may_wait: bool = True) -> None:
        """Copy a slice of one state, or a whole state. Call it after each step, and when the engine is idle.

        may_wait: bool, whether a large state that can only be copied as a whole waits until no sequence runs.
        """
        if not self._waiting:
            return
        copy = self._waiting[0]
        holder = self._holder(copy)
        if holder is None:
            self._waiting.popleft()
            num_done = copy.num_done
            if num_done and self._disk.wants(copy.token_ids[:num_done], copy.salt):
                self._store(copy)
        elif self._spare_id is not None:
            self._copy_slice(copy, holder, self._spare_id)
        elif may_wait and self._num_live and self._context.state_seq_size(holder.seq_id) > MAX_BYTES_AT_ONCE:
            self._waiting.rotate(-1)
        else:
            self._waiting.popleft()
            state = self._context.state_seq_get(holder.seq_id)
            self._disk.store(copy.token_ids, copy.salt, state, layout=copy.layout)

    def flush(self) -> None:
        """Copy all queued states."""
        while self._waiting:
            self.step(may_wait=False)

    @property
    def _num_live(self) -> int:
        return self._cache.n_slots - self._cache.num_free - self._cache.num_parked

    def _holder(self, copy: _Copy) -> Slot | None:
        """A slot that holds the rows, exactly these if its state is copied as a whole; None without one."""
        match = self._cache.match(copy.token_ids + array("i", [0]), copy.salt, copy.layout)
        slot = match.slot
        if slot is None or match.length < len(copy.token_ids) or match.checkpoint is not None:
            return None
        if self._spare_id is None and (slot.length != match.length or not self._cache.is_copied(slot)):
            return None
        return slot

    def _copy_slice(self, copy: _Copy, holder: Slot, spare_id: int) -> None:
        start, num_tokens = copy.num_done, len(copy.token_ids)
        position = copy.layout.position
        stop = min(num_tokens, copy.layout.round_up(start + self._slice_tokens))
        memory = self._cache.memory
        memory.seq_cp(holder.seq_id, spare_id, position(start), position(stop))
        state = self._context.state_seq_get(spare_id)
        memory.seq_rm(spare_id, -1, -1)
        copy.slices.append(state)
        copy.lengths.append(stop - start)
        self._slice_tokens = max(1, SLICE_BYTES * (stop - start) // len(state))
        if len(copy.slices) == 1 and len(state) * num_tokens // stop > self._disk.max_bytes:
            self._waiting.popleft()
            self._disk.stats.dropped += 1
        elif stop == num_tokens:
            self._waiting.popleft()
            self._store(copy)

    def _store(self, copy: _Copy) -> None:
        head = _HEAD.pack(_MAGIC, len(copy.slices))
        sizes = (_SLICE.pack(length, len(state)) for length, state in zip(copy.lengths, copy.slices, strict=True))
        token_ids, layout = copy.token_ids[: copy.num_done], copy.layout.upto(copy.num_done)
        self._disk.store(token_ids, copy.salt, head + b"".join(sizes), *copy.slices, layout=layout)


def is_sliced(state: bytes) -> bool:
    """Whether put_back() needs a spare sequence id for a stored state."""
    return state.startswith(_MAGIC)


def put_back(memory: Memory, seq_id: int, state: bytes, num_rows: int, length: int, spare_id: int | None) -> int:
    """Put a stored state of num_rows rows into an empty sequence. Returns the number of rows that it then has.

    Only the slices that contain the first `length` rows are put back. Raises ValueError if the memory rejects the
    state.
    """
    if spare_id is None or not is_sliced(state):
        memory.state_seq_set(seq_id, state)
        return num_rows
    num_tokens = 0
    for part_tokens, part in _slices(state):
        if num_tokens >= length:
            break
        try:
            memory.state_seq_set(spare_id, part)
            memory.seq_cp(spare_id, seq_id, -1, -1)
        finally:
            memory.seq_rm(spare_id, -1, -1)
        num_tokens += part_tokens
    return num_tokens


def _slices(state: bytes) -> Iterator[tuple[int, bytes]]:
    """(rows, state) of each slice."""
    _, count = _HEAD.unpack_from(state)
    start = _HEAD.size + count * _SLICE.size
    for i in range(count):
        num_tokens, num_bytes = _SLICE.unpack_from(state, _HEAD.size + i * _SLICE.size)
        yield num_tokens, state[start : start + num_bytes]
        start += num_bytes
