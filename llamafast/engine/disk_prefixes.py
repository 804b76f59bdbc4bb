"""Loads prefixes from the disk cache for waiting sequences, and saves the prefixes of others."""

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

# A load must replace the computation of this many rows and of this share of the state's rows. Otherwise computing them
# is as fast.
_MIN_GAIN = 32
_MIN_SHARE = 1 / 8


class DiskPrefixes:
    """Loads and saves prefixes. Runs on the engine's thread; threads of the disk cache read, write and check files.

    disk: DiskCache, the index of stored states.
    copies: StateCopies, the states that wait to be copied out of the memory.
    on_load: called in a thread of the disk cache when a read has ended, with or without a result.
    spare_id: as in StateCopies.
    """

    def __init__(self, disk: DiskCache, cache: PrefixCache, context: StateMemory, spare_id: int | None) -> None:
        self.disk = disk
        self.copies = StateCopies(disk, cache, context, spare_id)
        self.on_load: Callable[[], None] | None = None
        self._cache = cache
        self._spare_id = spare_id
        self._reads: WeakValueDictionary[int, Future[bytes | None]] = WeakValueDictionary()  # by entry

    def is_loading(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence's prefix is being read; the first call starts the read."""
        if sequence.load is None:
            sequence.load = self._start_load(sequence)
        return sequence.load.state is not None and not sequence.load.state.done()

    def call_on_load(self, on_load: Callable[[], None]) -> None:
        """Set the function that is called when a read has ended."""
        self.on_load = on_load

    @property
    def is_reading(self) -> bool:
        """Whether any prefix is being read. If so, on_load will be called."""
        return any(not read.done() for read in self._reads.values())

    def wait(self) -> None:
        """Wait until one of the running reads has ended."""
        reads = [read for read in self._reads.values() if not read.done()]
        if reads:
            wait(reads, return_when=FIRST_COMPLETED)

    def open(self, sequence: Sequence, num_promised: int) -> Slot | None:
        """A slot with the prefix that was read for a sequence; None if the memory has as many rows, or no room."""
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
            if self._restore(slot, state, load.match.length, load.match.entry, sequence):
                self.disk.stats.hits += 1
                self.disk.stats.hit_tokens += load.match.length
                return slot
            self.disk.discard(load.match.entry)
            sequence.load = DiskLoad(load.match, None)
        self._cache.free(slot)
        return None

    def save(self, sequence: Sequence, slot: Slot) -> None:
        """Store the rows of a slot before it is parked, if enough of them are new and its state can be read."""
        tokens = self._ids_to_store(sequence, slot)
        if tokens is not None and self._cache.reuse:
            self.copies.add(tokens, sequence.state.request.cache_salt, slot.layout.upto(len(tokens)))
        elif tokens is not None:  # the slot will not be parked
            self.copies.copy_now(slot, tokens, sequence.state.request.cache_salt)

    def save_checkpoint(self, sequence: Sequence) -> None:
        """Store the state of a prompt that is computed up to the place where the next prompt is likely to differ.

        Only memories that cannot be cut need this. The place is the end of the messages. Without messages it is the
        last row, which is always computed again.
        """
        slot = sequence.slot
        if slot.length == _num_to_store(sequence) and not self.disk.can_cut:
            tokens = self._ids_to_store(sequence, slot)
            if tokens is not None:
                self.copies.copy_now(slot, tokens, sequence.state.request.cache_salt)

    def plan_checkpoint(self, sequence: Sequence) -> None:
        """Make a chunk of the prompt end at the place where save_checkpoint() stores its state."""
        slot, place = sequence.slot, _num_to_store(sequence)
        if not self.disk.can_cut and place < sequence.num_prompt:
            slot.add_place(place)

    def close(self, *, copy_all: bool) -> None:
        """Write all queued states, with copy_all also those that wait to be copied, then stop."""
        if copy_all:
            self.copies.flush()
        self.disk.close()

    def _ids_to_store(self, sequence: Sequence, slot: Slot) -> array[int] | None:
        """The ids of a slot's rows if their state can be read and the disk cache wants them; else None."""
        request = sequence.state.request
        tokens = sequence.token_ids[: slot.layout.round_down(slot.length)]
        is_whole = len(tokens) == slot.length or (self.disk.can_cut and self._cache.reuse)
        can_read = is_whole and request.use_cache and self._cache.is_copied(slot)
        return tokens if can_read and self.disk.wants(tokens, request.cache_salt) else None

    def _start_load(self, sequence: Sequence) -> DiskLoad:
        request = sequence.state.request
        token_ids = sequence.reusable_ids
        match = self.disk.match(token_ids, request.cache_salt, sequence.layout)
        entry = match.entry
        if not request.use_cache or entry is None:
            self.disk.stats.misses += request.use_cache
            return DiskLoad(match, None)
        num_gained = match.length - self._num_computed(sequence)
        if num_gained < max(_MIN_GAIN, _MIN_SHARE * entry.num_tokens):
            return DiskLoad(match, None)
        return DiskLoad(match, self._read(entry))

    def _num_computed(self, sequence: Sequence) -> int:
        """Number of rows of a prompt that the memory contains."""
        return self._cache.match(sequence.reusable_ids, sequence.cache_salt, sequence.layout).length

    def _restore(self, slot: Slot, state: bytes, length: int, entry: Entry, sequence: Sequence) -> bool:
        """Put an entry's state into an empty slot and keep its first `length` rows; False if the memory cannot."""
        memory, layout = self._cache.memory, entry.header.layout
        try:
            num_rows = put_back(memory, slot.seq_id, state, entry.num_tokens, length, self._spare_id)
        except ValueError:
            return False  # the caller frees the slot
        # The largest position does not determine the number of rows: all rows of an image can have the same position.
        if num_rows < length or memory.seq_pos_max(slot.seq_id) != layout.pos_max(num_rows):
            return False
        if num_rows > length and not memory.seq_rm(slot.seq_id, layout.position(length), -1):
            return False
        self._cache.fill(slot, length, sequence.token_ids, sequence.layout)
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


def _num_to_store(sequence: Sequence) -> int:
    """Number of rows of a prompt to store. The next prompt is likely to differ after them."""
    places = sequence.state.request.places
    return sequence.layout.round_down(sequence.num_prompt - 1 if places is None else places.end)
