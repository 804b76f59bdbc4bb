"""Which slot holds which tokens, or is about to compute them, or held them once."""

from __future__ import annotations

from array import array
from collections import deque

from llamafast.cache.radix import SaltedTree
from llamafast.cache.slots import Slot

# Evicted prefixes that are remembered, to say why a prompt missed.
_NUM_REMEMBERED = 64


class PrefixIndex:
    """Token lists of slots. Each list stands under the slot's salt; slots without one stand nowhere."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._computed = SaltedTree()
        self._announced = SaltedTree()
        self._evicted = SaltedTree()
        self._evictions: deque[tuple[int, int]] = deque()  # number, and when it was used last
        self._num_evicted = 0

    @property
    def num_announced(self) -> int:
        """Slots that are about to compute something."""
        return len(self._announced)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._slots

    def announce(self, slot: Slot, token_ids: array[int]) -> None:
        """A slot is going to compute these tokens; those up to its length it holds already."""
        if slot.salt is not None:
            self._announced.insert(slot.seq_id, token_ids, slot.salt)
            self.hold(slot, token_ids[: slot.length])

    def is_announced(self, slot: Slot) -> bool:
        """Whether a slot is still to compute what it announced."""
        return self._slots.get(slot.seq_id) is slot and slot.seq_id in self._announced

    def hold(self, slot: Slot, tokens: array[int]) -> None:
        """A slot holds these tokens, all that it has."""
        if slot.salt is not None:
            self._slots[slot.seq_id] = slot
            slot.num_listed = len(tokens)
            self._computed.insert(slot.seq_id, tokens, slot.salt)

    def settle(self, slot: Slot) -> None:
        """A slot computes nothing more that others should wait for."""
        if slot.seq_id in self._announced:
            self._announced.remove(slot.seq_id)

    def forget(self, slot: Slot) -> None:
        """Nothing is to be found in a slot any more."""
        self._slots.pop(slot.seq_id, None)
        slot.num_listed = 0
        for tree in (self._computed, self._announced):
            if slot.seq_id in tree:
                tree.remove(slot.seq_id)

    def tokens(self, slot: Slot) -> array[int]:
        """What can be found in a slot; O(n)."""
        return self._computed.key(slot.seq_id) if slot.seq_id in self._computed else array("i")

    def longest(self, wanted: array[int], salt: str) -> tuple[int, Slot | None]:
        """The longest prefix of `wanted` whose cells are there, and whose they are."""
        length, seq_id = self._computed.match(wanted, salt)
        return length, self._slots[seq_id] if length else None

    def longest_announced(self, wanted: array[int], salt: str) -> tuple[int, Slot | None]:
        """The longest prefix of `wanted` that some slot is about to compute, computed already or not."""
        length, seq_id = self._announced.match(wanted, salt)
        return length, self._slots[seq_id] if length else None

    def whole_prefixes(self, wanted: array[int], salt: str) -> list[Slot]:
        """Slots all of whose listed tokens `wanted` begins with."""
        return [self._slots[seq_id] for seq_id in self._computed.prefixes(wanted, salt)]

    def remember(self, slot: Slot) -> None:
        """A slot is going to be evicted."""
        if slot.salt is None:
            return
        self._num_evicted += 1
        self._evictions.append((self._num_evicted, slot.used_at))
        self._evicted.insert(self._num_evicted, self.tokens(slot), slot.salt)
        if len(self._evictions) > _NUM_REMEMBERED:
            self._evicted.remove(self._evictions.popleft()[0])

    def evicted(self, wanted: array[int], salt: str) -> tuple[int, int]:
        """How many tokens of `wanted` were there not long ago, and when their slot was used last."""
        length, number = self._evicted.match(wanted, salt)
        return length, dict(self._evictions).get(number, 0)

    def is_of_other_salt(self, wanted: array[int], salt: str, length: int) -> bool:
        """Whether more than `length` tokens of `wanted` are there under another salt."""
        return self._computed.match_other(wanted, salt) > length
