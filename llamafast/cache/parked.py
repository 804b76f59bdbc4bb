"""Parked slots (of finished sequences): which one is evicted first when sequence ids, cells or time run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llamafast.cache.slots import Slot

# An idle time that has grown is halved after _CALM idle times without a regret. Fewer tokens are no regret.
_CALM = 8
_MIN_REGRETTED = 32

# The idle time is halved after this many idle slots were evicted in a row without a request for any slot.
_MANY_UNWANTED = 8

# More turns of a conversation than this say no more about the next one.
_MAX_TURNS = 8


class ParkedSlots:
    """Parked slots in the order of their last use. Times are counted in tokens that all sequences have generated.

    max_idle_tokens: int, a slot is idle once this many tokens were generated since its last use; None: never. The limit
        grows where evicted prefixes are asked for again, and shrinks where no prefix is.
    cost: gives the number of tokens that would have to be computed again without a slot.

    The slot with the lowest weight is evicted: its cost per unit gained (one id, or one cell), times the turns of its
    conversation, plus a floor that rises with each eviction, so that unused slots lose weight. Source:
    GreedyDual-Size-Frequency, Cherkasova 1998. Of equal weights, the least recently used slot goes.
    """

    def __init__(self, max_idle_tokens: int | None, cost: Callable[[Slot], int]) -> None:
        self._slots: dict[int, Slot] = {}  # by sequence id, least recently used first
        self._max_idle_tokens = max_idle_tokens
        self._max_idle = max_idle_tokens  # the present limit
        self._num_unwanted = 0
        self._calm_at = 0  # the time at which a grown limit shrinks
        self._cost = cost
        # They rise to the weight of each evicted slot.
        self._floor = 0
        self._cell_floor = 0.0

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: Slot) -> bool:
        return self._slots.get(slot.seq_id) is slot

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def use(self, slot: Slot, now: int) -> None:
        """Add a slot, or make it the most recently used one. now: the time."""
        self._slots.pop(slot.seq_id, None)
        self._slots[slot.seq_id] = slot
        slot.used_at = now
        slot.floor, slot.cell_floor = self._floor, self._cell_floor

    def discard(self, slot: Slot) -> None:
        """Remove a slot that was freed, or is live again."""
        if slot in self:
            del self._slots[slot.seq_id]

    def renumber(self) -> None:
        """Call it after a slot's sequence id has changed."""
        self._slots = {slot.seq_id: slot for slot in self}

    def lowest(self) -> Slot | None:
        """The slot with the lowest sequence id."""
        return self._slots[min(self._slots)] if self._slots else None

    def cheapest_id(self, spared: Slot | None) -> Slot | None:
        """The slot to evict for its sequence id, other than `spared`; None if there is no other."""
        victims = {slot: slot.floor + self._value(slot) for slot in self if slot is not spared}
        victim = min(victims, key=lambda slot: victims[slot], default=None)
        if victim is not None:
            self._floor = max(self._floor, victims[victim])
        return victim

    def cheapest_cells(self) -> Slot | None:
        """The slot to evict for its own cells; one without own cells only if no other is parked."""
        owned = {slot: num_own for slot in self if (num_own := slot.num_own)}
        victims = {slot: slot.cell_floor + self._value(slot) / num_own for slot, num_own in owned.items()}
        victim = min(victims, key=lambda slot: victims[slot], default=None)
        if victim is None:
            return next(iter(self), None)
        self._cell_floor = max(self._cell_floor, victims[victim])
        return victim

    def take_idle(self, now: int) -> Slot | None:
        """The least recently used slot if it is idle, for the caller to evict; O(1)."""
        oldest = next(iter(self), None)
        if oldest is None or self._max_idle is None or now - oldest.used_at <= self._max_idle:
            return None
        self._num_unwanted += 1
        if self._num_unwanted >= _MANY_UNWANTED:
            self._num_unwanted = 0
            self._max_idle //= 2
        return oldest

    def want(self, slot: Slot, length: int) -> None:
        """Note a request for the first `length` rows of a slot. If they are most of it, keeping slots pays."""
        if 2 * length >= slot.length and length >= _MIN_REGRETTED:
            self._keep_longer(0)

    def regret(self, num_tokens: int, used_at: int, now: int) -> None:
        """Note a request for num_tokens whose slot was evicted and was last used at used_at: keep idle slots longer.

        The limit becomes twice the time that would have been enough, until there was no regret for some time.
        """
        if self._max_idle is not None and num_tokens >= _MIN_REGRETTED:
            self._keep_longer(2 * (now - used_at))
            self._calm_at = now + _CALM * self._max_idle

    def calm_down(self, now: int) -> None:
        """Let a limit that has grown shrink again. Call it from time to time."""
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
