"""Prefixes on their way between sequences and the disk: what is loaded for whom, what is saved when."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from weakref import WeakValueDictionary

from llamafast.cache.disk.disk_cache import DiskCache, DiskLoad, Entry
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.cache.slots import Slot
from llamafast.engine.sequence import Sequence
from llamafast.engine.state_copies import StateCopies, StateMemory, is_sliced, put_back

# Fewer tokens are computed as fast as a state is loaded, and so are those that are a small part of a long state.
_MIN_GAIN = 32
_MIN_SHARE = 1 / 8


class DiskPrefixes:
    """Belongs to the engine's thread; reads, writes and checksums happen on the disk cache's own.

    on_load: called there whenever a prefix has come, or was found to be gone. spare_id: as in StateCopies.
    """

    def __init__(self, disk: DiskCache, cache: PrefixCache, context: StateMemory, spare_id: int | None) -> None:
        self.disk = disk
        self.copies = StateCopies(disk, cache, context, spare_id)
        self.on_load: Callable[[], None] | None = None
        self._cache = cache
        self._spare_id = spare_id
        self._reads: WeakValueDictionary[int, Future[bytes | None]] = WeakValueDictionary()  # by entry

    def is_loading(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence's prefix is on its way; the first question sends for it."""
        if sequence.load is None:
            sequence.load = self._send_for(sequence)
        return sequence.load.state is not None and not sequence.load.state.done()

    @property
    def is_reading(self) -> bool:
        """Whether some prefix is on its way. If so, on_load is still to be called."""
        return any(not read.done() for read in self._reads.values())

    def wait(self) -> None:
        """Until some prefix has come, if any is on its way."""
        reads = [read for read in self._reads.values() if not read.done()]
        if reads:
            wait(reads, return_when=FIRST_COMPLETED)

    def open(self, sequence: Sequence, num_promised: int) -> Slot | None:
        """A slot with what was loaded for a sequence; None if the memory has as much by now, or no room."""
        load = sequence.load
        if load is None or load.state is None or load.match.entry is None:
            return None
        if load.match.length - self._num_computed(sequence) < _MIN_GAIN:
            return None
        state = load.state.result()
        if state is None or (self._spare_id is None and is_sliced(state)):
            sequence.load = DiskLoad(load.match, None)
            self.disk.stats.misses += 1
            return None
        slot = self._cache.open_empty(sequence.cache_salt)
        if slot is None:
            return None
        if self._cache.make_room(num_promised + max(len(sequence.token_ids), load.match.entry.num_tokens)):
            if self._restore(slot, state, load.match.length, sequence):
                self.disk.stats.hits += 1
                self.disk.stats.hit_tokens += load.match.length
                return slot
            self.disk.discard(load.match.entry)
            sequence.load = DiskLoad(load.match, None)
        self._cache.free(slot)
        return None

    def save(self, sequence: Sequence, slot: Slot) -> None:
        """Have stored what a slot holds that is going to be parked, if enough of it is new and it can be read."""
        tokens = self._wanted(sequence, slot)
        if tokens is not None and self._cache.reuse:
            self.copies.add(tokens, sequence.state.request.cache_salt)
        elif tokens is not None:  # nothing is parked
            self.copies.copy_now(slot, tokens, sequence.state.request.cache_salt)

    def save_checkpoint(self, sequence: Sequence) -> None:
        """Store a prompt that has come to where the next one is likely to part from it, if its state is needed there.

        That is before the answer's opening, or before the last token, which is always computed anew.
        """
        slot = sequence.slot
        if slot.length == _place(sequence) and not self.disk.can_cut:
            tokens = self._wanted(sequence, slot)
            if tokens is not None:
                self.copies.copy_now(slot, tokens, sequence.state.request.cache_salt)

    def plan_checkpoint(self, sequence: Sequence) -> None:
        """Have the prompt's chunks end where save_checkpoint() stores it."""
        slot, place = sequence.slot, _place(sequence)
        if not self.disk.can_cut and place < sequence.num_prompt:
            slot.add_place(place)

    def close(self, *, copy_all: bool) -> None:
        """Write what is waiting, also what is still to be copied if copy_all, then stop."""
        if copy_all:
            self.copies.flush()
        self.disk.close()

    def _wanted(self, sequence: Sequence, slot: Slot) -> array[int] | None:
        request = sequence.state.request
        tokens = sequence.token_ids[: slot.length]
        can_read = request.use_cache and self._cache.is_copied(slot)
        return tokens if can_read and self.disk.wants(tokens, request.cache_salt) else None

    def _send_for(self, sequence: Sequence) -> DiskLoad:
        request = sequence.state.request
        token_ids = sequence.reusable_ids
        match = self.disk.match(token_ids, request.cache_salt)
        entry = match.entry
        if not request.use_cache or entry is None:
            self.disk.stats.misses += request.use_cache
            return DiskLoad(match, None)
        num_gained = match.length - self._num_computed(sequence)
        if num_gained < max(_MIN_GAIN, _MIN_SHARE * entry.num_tokens):
            return DiskLoad(match, None)
        return DiskLoad(match, self._read(entry))

    def _num_computed(self, sequence: Sequence) -> int:
        """Tokens that the memory has of a prompt."""
        return self._cache.match(sequence.reusable_ids, sequence.cache_salt).length

    def _restore(self, slot: Slot, state: bytes, length: int, sequence: Sequence) -> bool:
        """Put a state into an empty slot and keep its first `length` tokens; False if the memory cannot."""
        memory = self._cache.memory
        try:
            put_back(memory, slot.seq_id, state, length, self._spare_id)
        except ValueError:
            return False  # the slot is freed, whatever has come into it
        num_tokens = memory.seq_pos_max(slot.seq_id) + 1
        if num_tokens < length or (num_tokens > length and not memory.seq_rm(slot.seq_id, length, -1)):
            return False
        self._cache.stop_at(slot, length)  # where the memory cannot be cut, others need a checkpoint
        self._cache.advance(slot, length, sequence.token_ids)
        return True

    def _loaded(self, _: Future[bytes | None]) -> None:
        if self.on_load is not None:
            self.on_load()

    def _read(self, entry: Entry) -> Future[bytes | None]:
        read = self._reads.get(entry.number)
        if read is None:
            read = self._reads[entry.number] = self.disk.load(entry)
            read.add_done_callback(self._loaded)
        return read


def _place(sequence: Sequence) -> int:
    boundaries = sequence.state.request.boundaries
    return boundaries[-1] if boundaries else sequence.num_prompt - 1
