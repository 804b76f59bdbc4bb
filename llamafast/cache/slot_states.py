"""SlotStates: takes and drops the checkpoints of slots."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from llamafast.cache.checkpoints import CheckpointStore, places
from llamafast.cache.memory import MemoryKind
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.slots import Slot


class SlotStates:
    """Takes checkpoints of slots if the memory needs them for forks.

    store: CheckpointStore that keeps them.
    every: int, rows between the checkpoints of a prompt without boundaries; 0: none.
    enabled: bool, whether checkpoints are taken.
    """

    def __init__(
        self, kind: MemoryKind, index: PrefixIndex, store: CheckpointStore, *, every: int, enabled: bool
    ) -> None:
        self.store = store
        self._kind = kind
        self._index = index
        self._every = every
        self._is_on = enabled and kind.takes_checkpoints

    def plan(self, slot: Slot, num_tokens: int, boundaries: Sequence[int]) -> None:
        """Plan the checkpoints of a slot that will have num_tokens rows. boundaries: lengths where messages end."""
        if self._is_on:
            slot.places = places(slot.length, num_tokens, boundaries, self._every, slot.layout)[::-1]

    def stop_at(self, slot: Slot, place: int) -> None:
        """Plan a checkpoint at a length that the slot has not reached, if this memory needs one."""
        if self._is_on:
            slot.add_place(place)

    def reached(self, slot: Slot, tokens: array[int]) -> None:
        """Take a checkpoint if one is planned for a slot's present length. tokens: the ids of all its rows."""
        if slot.places and slot.length >= slot.places[-1]:
            slot.places.pop()
            self.keep(slot, tokens)

    def keep(self, slot: Slot, tokens: array[int]) -> None:
        """Take a checkpoint of a slot's present length unless it exists. tokens: the ids of all its rows."""
        if self._is_on and slot.salt is not None and not self.store.has(tokens, slot.salt):
            self.store.add(tokens, slot.salt, self._kind.state(slot), slot.layout)

    def drop(self, tokens: array[int], salt: str | None, above: int = 0) -> None:
        """Drop checkpoints of prefixes of `tokens` without cells. `above`: leading rows that certainly have cells."""
        if tokens and salt is not None and self._is_on and self._kind.has_cells:
            self.store.drop(tokens, salt, max(above, self._index.longest(tokens, salt)[0]))

    def num_computed_again(self, slot: Slot) -> int:
        """Number of rows that would have to be computed again if this slot were freed."""
        num_own = slot.num_own
        if not self._is_on or slot.salt is None:
            return num_own
        # The shared rows after their last checkpoint are computed again, too.
        found = self.store.find(self._index.tokens(slot), slot.salt, slot.length - num_own, slot.layout)
        return slot.length - (0 if found is None else found.length)
