"""PrefixIndex: finds the slots that hold, will compute, or held the rows of a prompt."""

from __future__ import annotations

from array import array
from collections import deque

from llamafast.cache.radix import SaltedTree
from llamafast.cache.slots import Slot

# Number of evicted prefixes that are remembered. They give the reason of a cache miss.
_NUM_REMEMBERED = 64


class PrefixIndex:
    """The ids of the slots' rows, by salt. Slots without a salt are not listed."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._computed = SaltedTree()
        self._announced = SaltedTree()
        self._evicted = SaltedTree()
        self._evictions: deque[tuple[int, int]] = deque()  # (number, time of its last use)
        self._num_evicted = 0

    @property
    def num_announced(self) -> int:
        """Number of slots that have not computed all rows that they announced."""
        return len(self._announced)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._slots

    def announce(self, slot: Slot, token_ids: array[int]) -> None:
        """List the rows that a slot will have. It already holds those up to its length."""
        if slot.salt is not None:
            self._announced.insert(slot.seq_id, token_ids, slot.salt)
            self.hold(slot, token_ids[: slot.length])

    def is_announced(self, slot: Slot) -> bool:
        """Whether a slot has not yet computed all that it announced."""
        return self._slots.get(slot.seq_id) is slot and slot.seq_id in self._announced

    def hold(self, slot: Slot, tokens: array[int]) -> None:
        """List all rows that a slot holds. They replace those listed before."""
        if slot.salt is not None:
            self._slots[slot.seq_id] = slot
            slot.num_listed = len(tokens)
            self._computed.insert(slot.seq_id, tokens, slot.salt)

    def settle(self, slot: Slot) -> None:
        """Remove a slot's announcement: it will compute no more announced rows."""
        if slot.seq_id in self._announced:
            self._announced.remove(slot.seq_id)

    def forget(self, slot: Slot) -> None:
        """Remove a slot from all lists."""
        self._slots.pop(slot.seq_id, None)
        slot.num_listed = 0
        for tree in (self._computed, self._announced):
            if slot.seq_id in tree:
                tree.remove(slot.seq_id)

    def tokens(self, slot: Slot) -> array[int]:
        """The listed rows of a slot; O(n)."""
        return self._computed.key(slot.seq_id) if slot.seq_id in self._computed else array("i")

    def longest(self, wanted: array[int], salt: str) -> tuple[int, Slot | None]:
        """(length, slot) of the longest prefix of `wanted` that a slot holds; (0, None) without one."""
        length, seq_id = self._computed.match(wanted, salt)
        return length, self._slots[seq_id] if length else None

    def longest_announced(self, wanted: array[int], salt: str) -> tuple[int, Slot | None]:
        """(length, slot) of the longest prefix of `wanted` that a slot has announced; (0, None) without one."""
        length, seq_id = self._announced.match(wanted, salt)
        return length, self._slots[seq_id] if length else None

    def whole_prefixes(self, wanted: array[int], salt: str) -> list[Slot]:
        """The slots whose listed rows are a prefix of `wanted`."""
        return [self._slots[seq_id] for seq_id in self._computed.prefixes(wanted, salt)]

    def remember(self, slot: Slot) -> None:
        """Remember the rows of a slot that is about to be evicted."""
        if slot.salt is None:
            return
        self._num_evicted += 1
        self._evictions.append((self._num_evicted, slot.used_at))
        self._evicted.insert(self._num_evicted, self.tokens(slot), slot.salt)
        if len(self._evictions) > _NUM_REMEMBERED:
            self._evicted.remove(self._evictions.popleft()[0])

    def evicted(self, wanted: array[int], salt: str) -> tuple[int, int]:
        """(length, time) of the longest recently evicted prefix of `wanted`: its rows, and its slot's last use."""
        length, number = self._evicted.match(wanted, salt)
        return length, dict(self._evictions).get(number, 0)

    def is_of_other_salt(self, wanted: array[int], salt: str, length: int) -> bool:
        """Whether a slot with another salt holds more than `length` rows of `wanted`."""
        return self._computed.match_other(wanted, salt) > length
