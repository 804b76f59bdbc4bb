"""Checkpoints of slots: where they are taken, and how long they are of use."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from llamafast.cache.checkpoints import CheckpointStore, places
from llamafast.cache.memory import MemoryKind
from llamafast.cache.prefix_index import PrefixIndex
from llamafast.cache.slots import Slot


class SlotStates:
    """Keeps the states of slots where the memory needs them to fork; nothing if `enabled` is False."""

    def __init__(
        self, kind: MemoryKind, index: PrefixIndex, store: CheckpointStore, *, every: int, enabled: bool
    ) -> None:
        self.store = store
        self._kind = kind
        self._index = index
        self._every = every
        self._is_on = enabled and kind.takes_checkpoints

    def plan(self, slot: Slot, num_tokens: int, boundaries: Sequence[int]) -> None:
        """Say where a slot that is about to compute num_tokens is to stop for a checkpoint."""
        if self._is_on:
            slot.places = places(slot.length, num_tokens, boundaries, self._every)[::-1]

    def stop_at(self, slot: Slot, place: int) -> None:
        """Have a checkpoint taken at a place that the slot has not passed."""
        if self._is_on:
            slot.add_place(place)

    def reached(self, slot: Slot, tokens: array[int]) -> None:
        """A slot stands behind `tokens`, all that it holds: a checkpoint is taken if this is the place."""
        if slot.places and slot.length >= slot.places[-1]:
            slot.places.pop()
            self.keep(slot, tokens)

    def keep(self, slot: Slot, tokens: array[int]) -> None:
        """A checkpoint of where a slot stands, unless there is one; tokens are all that it holds."""
        if self._is_on and slot.salt is not None and not self.store.has(tokens, slot.salt):
            self.store.add(tokens, slot.salt, self._kind.state(slot))

    def drop(self, tokens: array[int], salt: str | None, above: int = 0) -> None:
        """Forget those along `tokens` whose cells are gone everywhere; the first `above` are known to be there."""
        if tokens and salt is not None and self._is_on and self._kind.has_cells:
            self.store.drop(tokens, salt, max(above, self._index.longest(tokens, salt)[0]))

    def num_computed_again(self, slot: Slot) -> int:
        """Tokens that would have to be computed to have again what only this slot holds."""
        num_own = slot.num_own
        if not self._is_on or slot.salt is None:
            return num_own
        # Without a checkpoint where the shared cells end, they are computed once more too.
        found = self.store.find(self._index.tokens(slot), slot.salt, slot.length - num_own)
        return slot.length - (0 if found is None else found.length)
