"""States that are to be stored, copied out of the memory a slice per step: no copy of a long one holds up others."""

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
from llamafast.cache.slots import Slot

# Copied in one step: 2 to 5 ms. Of a memory that has to be copied at once, so much while others run; else when idle.
SLICE_BYTES = 8 * 2**20
MAX_BYTES_AT_ONCE = 64 * 2**20
_FIRST_SLICE = 64  # tokens, before it is known what one takes

_MAGIC = b"LLFSLICE"  # of no state of llama.cpp, which begins with a small number of streams
_HEAD = struct.Struct("<8sI")
_SLICE = struct.Struct("<QQ")


class StateMemory(Protocol):
    """The part of a context that copies a sequence's memory out."""

    def state_seq_size(self, seq_id: int) -> int: ...
    def state_seq_get(self, seq_id: int, partial_only: bool = False) -> bytes: ...


@dataclass(slots=True)
class _Copy:
    token_ids: array[int]
    salt: str
    slices: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # in tokens

    @property
    def num_done(self) -> int:
        return sum(self.lengths)

    def covers(self, other: _Copy) -> bool:
        n = len(other.token_ids)
        return self.salt == other.salt and self.token_ids[:n] == other.token_ids


class StateCopies:
    """Prefixes whose states are still to be copied; the disk cache gets them when they are whole.

    Belongs to the engine's thread. spare_id: a sequence id that nothing else uses, by which a part of a sequence can be
    copied; None: the memory cannot share parts of sequences, so states are copied as a whole. What is dropped from the
    memory meanwhile is not copied any more; what was copied of it is stored, if states can be cut.
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

    def add(self, token_ids: array[int], salt: str) -> None:
        """Have the state behind token_ids copied, which some slot will hold from the next step on."""
        new = _Copy(token_ids, salt)
        for old in list(self._waiting):
            if self._disk.can_cut and old.covers(new):
                return
            if self._disk.can_cut and new.covers(old):  # this conversation went on: so does its copy
                new.slices, new.lengths = old.slices, old.lengths
                self._waiting.remove(old)
        self._waiting.append(new)

    def copy_now(self, slot: Slot, token_ids: array[int], salt: str) -> None:
        """Copy the state of a slot that stands behind token_ids and will move on; not if it is large and others run."""
        if self._num_live > 1 and self._context.state_seq_size(slot.seq_id) > MAX_BYTES_AT_ONCE:
            self._disk.stats.dropped += 1
        else:
            self._disk.store(token_ids, salt, self._context.state_seq_get(slot.seq_id))

    def step(self, *, may_wait: bool = True) -> None:
        """Copy a slice of one state, or a whole one; to be called after each step, and to the end when idle.

        may_wait: a large one that has to be copied as a whole waits until nothing runs.
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
            self._disk.store(copy.token_ids, copy.salt, self._context.state_seq_get(holder.seq_id))

    def flush(self) -> None:
        """Copy all that waits."""
        while self._waiting:
            self.step(may_wait=False)

    @property
    def _num_live(self) -> int:
        return self._cache.n_slots - self._cache.num_free - self._cache.num_parked

    def _holder(self, copy: _Copy) -> Slot | None:
        """A slot that holds the tokens now; where it cannot be cut, it stands behind them."""
        match = self._cache.match(copy.token_ids + array("i", [0]), copy.salt)
        slot = match.slot
        if slot is None or match.length < len(copy.token_ids) or match.checkpoint is not None:
            return None
        if self._spare_id is None and (slot.length != match.length or not self._cache.is_copied(slot)):
            return None
        return slot

    def _copy_slice(self, copy: _Copy, holder: Slot, spare_id: int) -> None:
        start, num_tokens = copy.num_done, len(copy.token_ids)
        stop = min(num_tokens, start + self._slice_tokens)
        memory = self._cache.memory
        memory.seq_cp(holder.seq_id, spare_id, start, stop)
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
        self._disk.store(copy.token_ids[: copy.num_done], copy.salt, head + b"".join(sizes), *copy.slices)


def is_sliced(state: bytes) -> bool:
    """Whether put_back() needs a spare sequence id for what was stored."""
    return state.startswith(_MAGIC)


def put_back(memory: Memory, seq_id: int, state: bytes, length: int, spare_id: int | None) -> None:
    """Put what was stored into an empty sequence: the slices that hold its first `length` tokens, or the whole.

    Raises ValueError if the memory does not take it.
    """
    if spare_id is None or not is_sliced(state):
        memory.state_seq_set(seq_id, state)
        return
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


def _slices(state: bytes) -> Iterator[tuple[int, bytes]]:
    """(tokens, state) of each slice."""
    _, count = _HEAD.unpack_from(state)
    start = _HEAD.size + count * _SLICE.size
    for i in range(count):
        num_tokens, num_bytes = _SLICE.unpack_from(state, _HEAD.size + i * _SLICE.size)
        yield num_tokens, state[start : start + num_bytes]
        start += num_bytes
