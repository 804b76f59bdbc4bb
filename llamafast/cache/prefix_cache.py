"""PrefixCache: the engine's interface to the KV memory, its sequence ids, prefixes and cells."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from llamafast.cache.checkpoints import CheckpointStore
from llamafast.cache.eviction import Eviction
from llamafast.cache.lookup import Match, PrefixLookup
from llamafast.cache.memory import Memory, MemoryKind
from llamafast.cache.parked import ParkedSlots
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.prompt import TEXT_ONLY, Layout
from llamafast.cache.slot_pool import SlotPool
from llamafast.cache.slot_states import SlotStates
from llamafast.cache.slots import Slot, grow


class PrefixCache:
    """Opens slots for sequences, and parks finished slots for later prompts with the same prefix.

    memory: Memory, the KV memory. kind, n_swa, swa_full, copies_cells: its properties, as in MemoryKind.
    n_slots: int, number of sequence ids.
    n_cells: int, number of KV cells.
    reuse: bool, whether prefixes are reused. If not, nothing is parked or found, and the cache only counts cells.
    n_cells_kept: int, limit of the cells in use above which parked slots are evicted; None: n_cells. A lower limit
    makes steps faster, because attention computes all cells up to the highest used one.
    max_idle_tokens: int, a parked slot is evicted when the sequences have generated this many tokens since its last
    use; None: never. The limit adapts: see ParkedSlots.
    max_checkpoint_bytes: int, maximum host memory of checkpoints. Hybrid and recurrent memories, and sliding windows
    that have moved on, can be forked only at the end of a sequence or at a checkpoint.
    checkpoint_every: int, rows between the checkpoints of a prompt without boundaries; 0: none.

    After each decode, the caller must call note_decode(), note_generated(), and advance() for each prompt.
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
        self.reuse = reuse
        self.checkpoints = CheckpointStore(max_checkpoint_bytes)
        self._kind = MemoryKind(memory, kind, n_swa, swa_full, copies_cells)
        self._index = PrefixIndex()
        self._lookup = PrefixLookup(self._kind, self._index, self.checkpoints, reuse=reuse)
        self._states = SlotStates(self._kind, self._index, self.checkpoints, every=checkpoint_every, enabled=reuse)
        self._parked = ParkedSlots(max_idle_tokens, self._states.num_computed_again)
        self._pool = SlotPool(self._kind, self._index, self._states, self._parked, n_slots)
        kept = n_cells if n_cells_kept is None else n_cells_kept
        self._eviction = Eviction(self._pool, n_cells, kept)
        # Bound directly, because each step calls it.
        self.drop_idle = self._eviction.drop_idle

    @property
    def n_slots(self) -> int:
        """Number of sequence ids, without those that reserve_id() withdrew."""
        return self._pool.n_slots

    @property
    def n_cells(self) -> int:
        """Number of KV cells."""
        return self._eviction.n_cells

    @property
    def num_cells(self) -> int:
        """Number of KV cells in use."""
        return self._pool.num_cells

    @property
    def num_generated(self) -> int:
        """Number of tokens that all sequences have generated so far."""
        return self._eviction.num_generated

    @property
    def num_evicted(self) -> int:
        """Number of evictions so far."""
        return self._eviction.num_evicted

    @property
    def num_free(self) -> int:
        """Number of sequence ids without a slot."""
        return self._pool.num_free

    @property
    def num_parked(self) -> int:
        """Number of sequence ids that hold a finished prefix."""
        return len(self._parked)

    @property
    def num_announced(self) -> int:
        """Number of slots that have not computed all rows that they announced."""
        return self._index.num_announced

    def slots(self) -> list[Slot]:
        """All slots, live and parked."""
        return self._pool.slots()

    def reserve_id(self) -> int:
        """Withdraw the highest sequence id for another use. Call it before the first open()."""
        return self._pool.reserve_id()

    def match(self, token_ids: array[int], salt: str | None = "", layout: Layout = TEXT_ONLY) -> Match:
        """See PrefixLookup.match."""
        return self._lookup.match(token_ids, salt, layout)

    def match_announced(self, token_ids: array[int], salt: str | None = "", layout: Layout = TEXT_ONLY) -> Match:
        """See PrefixLookup.match_announced."""
        return self._lookup.match_announced(token_ids, salt, layout)

    def miss_reason(self, token_ids: array[int], salt: str | None, length: int, layout: Layout = TEXT_ONLY) -> str:
        """See PrefixLookup.miss_reason."""
        return self._lookup.miss_reason(token_ids, salt, length, layout)

    def open(self, match: Match, salt: str | None = "") -> Slot:
        """A new live slot that begins with the matched prefix. A parked slot is evicted if no id is free.

        The slot's length is 0 if the memory has no room for the state of the prefix.
        """
        source, checkpoint = match.slot, match.checkpoint
        is_next_turn = source is not None and 0 < source.turn_end <= match.length
        num_turns = source.num_turns + 1 if source is not None and is_next_turn else 1
        if checkpoint is not None:
            self.checkpoints.touch(checkpoint)
        if source is not None and source in self._parked:
            self._parked.use(source, self.num_generated)
            self._parked.want(source, match.length)
        seq_id = self._eviction.take_id(source)
        if seq_id is None:
            assert source is not None
            slot = self._take_over(source, match, salt)
        else:
            length = match.length if self._kind.fork(source, checkpoint, match.length, seq_id) else 0
            slot = self._pool.open(seq_id, length, source if length else None, salt)
            if length and (holder := source or checkpoint) is not None:
                slot.layout = holder.layout
        slot.num_turns = num_turns
        return slot

    def open_empty(self, salt: str | None) -> Slot | None:
        """A new live slot without rows, whose state can be set at once; None if every id waits for a copy."""
        seq_id = self._eviction.take_settled_id()
        return None if seq_id is None else self._pool.open(seq_id, 0, None, salt)

    def fork(self, source: Slot) -> Slot:
        """A new live slot with all rows of the source. Works with every kind of memory."""
        seq_id = self._eviction.take_id(source)
        assert seq_id is not None, "a live slot cannot be taken over"
        self._kind.copy(source.seq_id, seq_id)
        slot = self._pool.open(seq_id, source.length, source, source.salt)
        slot.layout, slot.num_turns, slot.turn_end = source.layout, source.num_turns, source.turn_end
        return slot

    def announce(
        self,
        slot: Slot,
        token_ids: array[int],
        boundaries: Sequence[int] = (),
        end: int = 0,
        layout: Layout = TEXT_ONLY,
    ) -> None:
        """Announce the rows that a slot will compute, so that other sequences can wait for them; plan its checkpoints.

        token_ids: ids of all rows, including those that the slot has. boundaries, end: as in PromptPlaces.
        """
        slot.layout = layout
        if not self.reuse or slot.salt is None:
            return
        self._index.announce(slot, token_ids)
        self._states.plan(slot, len(token_ids), boundaries)
        slot.turn_end = end or layout.round_down(len(token_ids) - 1)

    def is_announced(self, slot: Slot) -> bool:
        """Whether a slot has not yet computed all that it announced."""
        return self._index.is_announced(slot)

    def stop_at(self, slot: Slot, place: int) -> None:
        """See SlotStates.stop_at."""
        self._states.stop_at(slot, place)

    def advance(self, slot: Slot, num_rows: int, token_ids: array[int]) -> None:
        """Note that num_rows more rows of token_ids are computed, and take a checkpoint if one is planned here."""
        slot.length += num_rows
        self._pool.num_cells += num_rows
        if self.reuse:
            self._index.hold(slot, token_ids[: slot.length])
            self._states.reached(slot, token_ids[: slot.length])

    def fill(self, slot: Slot, length: int, token_ids: array[int], layout: Layout = TEXT_ONLY) -> None:
        """Note the first `length` rows of token_ids, which were put into an empty slot without a decode."""
        slot.layout = layout
        self.stop_at(slot, length)  # a memory that cannot be cut needs a checkpoint here
        self.advance(slot, length, token_ids)

    def is_copied(self, slot: Slot) -> bool:
        """Whether a slot's whole state can be read: no copy from it or to it is pending."""
        return slot.seq_id not in self._kind.uncopied

    def note_decode(self, slots: Sequence[Slot] = (), counts: Sequence[int] = ()) -> None:
        """Note a decode: it has made all pending copies, and computed counts[i] more rows of slots[i]."""
        self._kind.uncopied.clear()
        self._pool.num_cells += grow(slots, counts)

    def note_generated(self, num_tokens: int) -> None:
        """Count tokens that the sequences have generated."""
        self._eviction.num_generated += num_tokens

    def register(self, slot: Slot, token_ids: array[int]) -> None:
        """List the computed rows token_ids[:slot.length] for reuse, and end the slot's announcement."""
        if self.reuse:
            self._index.settle(slot)
            self._index.hold(slot, token_ids[: slot.length])

    def park(self, slot: Slot, token_ids: array[int]) -> None:
        """End a live slot. Keep its cells for later prompts unless it has no salt or another slot has its rows."""
        salt = slot.salt
        if not self.reuse or salt is None or not self._pool.cut_unusable(slot, token_ids):
            self.free(slot)
            return
        tokens = token_ids[: slot.length]
        self._index.forget(slot)
        slot.places.clear()
        length, _ = self._index.longest(tokens, salt)
        if length == len(tokens):  # another slot holds all these rows
            self._states.keep(slot, tokens)
            self.free(slot)
            return
        shorter = self._index.whole_prefixes(tokens, salt)
        self._index.hold(slot, tokens)
        for other in shorter:
            if other in self._parked:  # this slot holds all rows of the other
                self._states.keep(other, tokens[: other.length])
                self.free(other)
        self._parked.use(slot, self.num_generated)
        self.drop_idle()

    def free(self, slot: Slot) -> None:
        """End a slot, and free the cells that no other slot holds."""
        self._pool.free(slot)

    def shift(self, slot: Slot, num_kept: int, num_dropped: int) -> bool:
        """See SlotPool.shift."""
        return self._pool.shift(slot, num_kept, num_dropped)

    def evict(self) -> bool:
        """See Eviction.evict."""
        return self._eviction.evict()

    def give_way(self, num_cells: int) -> bool:
        """See Eviction.give_way."""
        return self._eviction.give_way(num_cells)

    def make_room(self, num_cells: int) -> bool:
        """See Eviction.make_room."""
        return self._eviction.make_room(num_cells)

    def regret(self, token_ids: array[int], salt: str | None, length: int) -> None:
        """See Eviction.regret."""
        self._eviction.regret(token_ids, salt, length)

    def num_live_cells(self) -> int:
        """See SlotPool.num_live_cells."""
        return self._pool.num_live_cells()

    def check_integrity(self) -> None:
        """Assert that ids, cells, trees, checkpoints and positions are consistent. For tests and debug runs."""
        self._pool.check_integrity()
        for slot in self._pool.slots():
            assert slot.num_unmoved is None or slot.num_listed <= slot.num_unmoved, "the index lists moved rows"
            assert slot.next_place is None or slot.next_place > slot.length, "a checkpoint was not taken"
        self.checkpoints.check_integrity()
        if self._kind.has_cells:
            for tokens, salt in self.checkpoints.prefixes():
                assert self._index.longest(tokens, salt)[0] == len(tokens), "a checkpoint has lost its cells"

    def _take_over(self, slot: Slot, match: Match, salt: str | None) -> Slot:
        """Make a parked slot live again, cut to the matched prefix."""
        tokens = self._index.tokens(slot)
        self._parked.discard(slot)
        if slot.length == match.length:
            self._states.keep(slot, tokens)
        self._index.forget(slot)
        self._pool.cut_back(slot, match.length, match.checkpoint)
        slot.salt = salt
        self._states.drop(tokens, salt, match.length)
        return slot
