"""Slots of finished sequences: which of them goes first when sequence ids, cells or time run out."""

from __future__ import annotations

from collections.abc import Iterator

from llamafast.cache.slots import Slot

# Idle times without a regret after which the idle time that has grown is halved; and tokens worth a regret.
_CALM = 8
_MIN_REGRETTED = 32


class ParkedSlots:
    """In the order of their last use. Times are tokens that all sequences have generated.

    A slot is idle when max_idle_tokens were generated since its last use, or more, where dropped ones were asked for
    again; None: never.
    """

    def __init__(self, max_idle_tokens: int | None) -> None:
        self._slots: dict[int, Slot] = {}  # by sequence id, least recently used first
        self._max_idle_tokens = max_idle_tokens
        self._max_idle = max_idle_tokens  # as it is now
        self._calm_at = 0  # when that shrinks again
        self._floor = 0  # rises to the weight of what is evicted: what stays unused gets lighter beside the rest

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: Slot) -> bool:
        return self._slots.get(slot.seq_id) is slot

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def use(self, slot: Slot, now: int) -> None:
        """Put a slot here, or make it the most recently used."""
        self._slots.pop(slot.seq_id, None)
        self._slots[slot.seq_id] = slot
        slot.used_at = now
        slot.weighed_at = self._floor

    def discard(self, slot: Slot) -> None:
        """A slot is gone, or live again."""
        if slot in self:
            del self._slots[slot.seq_id]

    def renumber(self) -> None:
        """To be called after a slot's sequence id has changed."""
        self._slots = {slot.seq_id: slot for slot in self}

    def lowest(self) -> Slot | None:
        """The one with the lowest sequence id."""
        return self._slots[min(self._slots)] if self._slots else None

    def oldest(self) -> Slot | None:
        """The least recently used one, before that those with a cell of their own."""
        owners = (slot for slot in self if slot.num_own)
        return next(owners, None) or next(iter(self), None)

    def cheapest(self, spared: Slot | None) -> Slot | None:
        """The one whose sequence id is to be given up, other than `spared`."""
        victims = [slot for slot in self if slot is not spared]
        if not victims:
            return None
        victim = min(victims, key=_weight)
        self._floor = max(self._floor, _weight(victim))
        return victim

    def idle(self, now: int) -> Slot | None:
        """The least recently used one, if it is idle; O(1)."""
        oldest = next(iter(self), None)
        if oldest is None or self._max_idle is None or now - oldest.used_at <= self._max_idle:
            return None
        return oldest

    def regret(self, num_tokens: int, used_at: int, now: int) -> None:
        """num_tokens were asked for whose slot was dropped, and used last at used_at: keep idle ones longer.

        Twice as long as would have done, until nothing was regretted for a while.
        """
        if self._max_idle is not None and num_tokens >= _MIN_REGRETTED:
            self._max_idle = max(self._max_idle, 2 * (now - used_at))
            self._calm_at = now + _CALM * self._max_idle

    def calm_down(self, now: int) -> None:
        """To be called now and then: forget old regrets."""
        if now >= self._calm_at and self._max_idle is not None and self._max_idle_tokens is not None:
            self._max_idle = max(self._max_idle_tokens, self._max_idle // 2)
            self._calm_at = now + _CALM * self._max_idle


def _weight(slot: Slot) -> int:
    """What it would cost to compute a parked slot again, more so the later it was used.

    Source: GreedyDual-Size, Cao and Irani 1997, with all sizes equal: an id is an id.
    """
    return slot.weighed_at + slot.num_own
