"""Slots of finished sequences: which of them goes first when sequence ids, cells or time run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llamafast.cache.slots import Slot

# Idle times without a regret after which the idle time that has grown is halved; and tokens worth a regret.
_CALM = 8
_MIN_REGRETTED = 32

# So many idle slots dropped in a row, without anybody coming back to any, halve the idle time.
_MANY_UNWANTED = 8

# More turns of a conversation than this say no more about its next one.
_MAX_TURNS = 8


class ParkedSlots:
    """In the order of their last use. Times are tokens that all sequences have generated.

    A slot is idle when max_idle_tokens were generated since its last use; or more, where dropped ones were asked for
    again; or less, where nobody ever comes back; None: never. cost: tokens that would be computed again if a slot were
    gone.

    What goes first: cost by what is won, times the turns of the conversation, for whoever came back will come again;
    more so the later it was used. Source: GreedyDual-Size-Frequency, Cherkasova 1998. Of equals, the one that was used
    least recently.
    """

    def __init__(self, max_idle_tokens: int | None, cost: Callable[[Slot], int]) -> None:
        self._slots: dict[int, Slot] = {}  # by sequence id, least recently used first
        self._max_idle_tokens = max_idle_tokens
        self._max_idle = max_idle_tokens  # as it is now
        self._num_unwanted = 0
        self._calm_at = 0  # when that shrinks again
        self._cost = cost
        # They rise to the weight of what is evicted: what stays unused gets lighter beside the rest.
        self._floor = 0
        self._cell_floor = 0.0

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
        slot.floor, slot.cell_floor = self._floor, self._cell_floor

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

    def cheapest_id(self, spared: Slot | None) -> Slot | None:
        """The one whose sequence id is to be given up, other than `spared`."""
        victims = {slot: slot.floor + self._value(slot) for slot in self if slot is not spared}
        victim = min(victims, key=lambda slot: victims[slot], default=None)
        if victim is not None:
            self._floor = max(self._floor, victims[victim])
        return victim

    def cheapest_cells(self) -> Slot | None:
        """The one whose own cells are to be given up; one without any only if no other is there."""
        owned = {slot: num_own for slot in self if (num_own := slot.num_own)}
        victims = {slot: slot.cell_floor + self._value(slot) / num_own for slot, num_own in owned.items()}
        victim = min(victims, key=lambda slot: victims[slot], default=None)
        if victim is None:
            return next(iter(self), None)
        self._cell_floor = max(self._cell_floor, victims[victim])
        return victim

    def take_idle(self, now: int) -> Slot | None:
        """The least recently used one, to be dropped, if it is idle; O(1)."""
        oldest = next(iter(self), None)
        if oldest is None or self._max_idle is None or now - oldest.used_at <= self._max_idle:
            return None
        self._num_unwanted += 1
        if self._num_unwanted >= _MANY_UNWANTED:
            self._num_unwanted = 0
            self._max_idle //= 2
        return oldest

    def want(self, slot: Slot, length: int) -> None:
        """The first `length` tokens of a slot are asked for: if they are most of it, keeping slots pays."""
        if 2 * length >= slot.length and length >= _MIN_REGRETTED:
            self._keep_longer(0)

    def regret(self, num_tokens: int, used_at: int, now: int) -> None:
        """num_tokens were asked for whose slot was dropped, and used last at used_at: keep idle ones longer.

        Twice as long as would have done, until nothing was regretted for a while.
        """
        if self._max_idle is not None and num_tokens >= _MIN_REGRETTED:
            self._keep_longer(2 * (now - used_at))
            self._calm_at = now + _CALM * self._max_idle

    def calm_down(self, now: int) -> None:
        """To be called now and then: forget old regrets."""
        base = self._max_idle_tokens
        if now >= self._calm_at and self._max_idle is not None and base is not None and self._max_idle > base:
            self._max_idle = max(base, self._max_idle // 2)
            self._calm_at = now + _CALM * self._max_idle

    def _keep_longer(self, num_tokens: int) -> None:
        self._num_unwanted = 0
        if self._max_idle is not None and self._max_idle_tokens is not None:
            self._max_idle = max(self._max_idle, self._max_idle_tokens, num_tokens)

    def _value(self, slot: Slot) -> int:
        return min(slot.num_turns, _MAX_TURNS) * self._cost(slot)
