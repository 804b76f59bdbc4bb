"""States of memories that cannot be cut, kept in host memory: where they are taken, and which one serves a prompt."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llamafast.cache.radix import SaltedTree

# The last boundaries of a prompt are the likeliest to be edited or dropped; of the others, this many tokens apart.
_NUM_LAST = 4
_MIN_APART = 64
# A prompt without boundaries gets at most so many: a long one must not drive out all others.
_MAX_REGULAR = 8
# Fewer tokens than this are computed again as fast as a step of their own, which a checkpoint costs.
_MIN_SAVED = 32
# Having been used more often says no more about the next time.
_MAX_USES = 8
# Of one conversation: whoever looks for one passes all on the way.
_MAX_ON_THE_WAY = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state behind the first `length` tokens of a prompt. number: its owner in the store's tree."""

    number: int
    length: int
    state: bytes


class CheckpointStore:
    """Checkpoints by token prefix; their states take max_bytes at most.

    What goes first: tokens that it saves by bytes that it takes, times its uses, more so the later it was used. Source:
    GreedyDual-Size-Frequency, Cherkasova 1998. Of equals, the one that was used least recently. Long conversations lose
    theirs in the same order, all but the last few, so that they never have more than _MAX_ON_THE_WAY.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evicted = 0
        self._tree = SaltedTree()
        self._checkpoints: dict[int, Checkpoint] = {}
        self._floor = 0.0  # rises to the weight of what is evicted
        self._floors: dict[int, float] = {}  # as it was when each was used last
        self._uses: dict[int, int] = {}
        self._used_at: dict[int, int] = {}  # uses of all up to the last one of each
        self._num_uses = 0
        # A heap of (weight, used at, number), gone ones too. Too low where one was used, or a shorter one went, since.
        self._weights: list[tuple[float, int, int]] = []
        self._num_added = 0

    def __len__(self) -> int:
        return len(self._checkpoints)

    def has(self, token_ids: array[int], salt: str) -> bool:
        """Whether there is a checkpoint behind exactly these tokens."""
        found = self.find(token_ids, salt, len(token_ids))
        return found is not None and found.length == len(token_ids)

    def find(self, token_ids: array[int], salt: str, max_length: int) -> Checkpoint | None:
        """The longest checkpoint that token_ids begin with, of max_length tokens at most."""
        found = [self._checkpoints[number] for number in self._tree.prefixes(token_ids, salt)]
        fitting = [checkpoint for checkpoint in found if checkpoint.length <= max_length]
        return max(fitting, key=lambda checkpoint: checkpoint.length, default=None)

    def add(self, token_ids: array[int], salt: str, state: bytes) -> None:
        """Keep the state behind token_ids, if it fits at all; those that are worth less go for it."""
        if len(state) > self.max_bytes:
            return
        while self.num_bytes + len(state) > self.max_bytes:
            self._evict()
        on_the_way = self._tree.prefixes(token_ids, salt)
        if len(on_the_way) >= _MAX_ON_THE_WAY:
            self._thin(on_the_way)
        self._num_added = number = self._num_added + 1
        self._tree.insert(number, token_ids, salt)
        self._checkpoints[number] = Checkpoint(number, len(token_ids), state)
        self._uses[number] = 0
        self._use(number)
        self.num_bytes += len(state)
        if len(self._weights) > 2 * len(self._checkpoints):
            self._weights = [entry for entry in self._weights if entry[2] in self._checkpoints]
            heapq.heapify(self._weights)
        heapq.heappush(self._weights, self._entry(number))

    def touch(self, checkpoint: Checkpoint) -> None:
        """It is now the most recently used."""
        if checkpoint.number in self._checkpoints:
            self._use(checkpoint.number)

    def drop(self, token_ids: array[int], salt: str, above: int) -> None:
        """Forget those that token_ids begin with and that are longer than `above`: their cells are gone."""
        for number in self._tree.prefixes(token_ids, salt):
            if self._checkpoints[number].length > above:
                self._remove(number)

    def prefixes(self) -> list[tuple[array[int], str]]:
        """(tokens, salt) of each. For tests and debug runs; O(total length)."""
        return [(self._tree.key(number), self._tree.salt(number)) for number in self._checkpoints]

    def check_integrity(self) -> None:
        """Assert that bytes and tree add up."""
        assert self.num_bytes == sum(len(checkpoint.state) for checkpoint in self._checkpoints.values())
        assert self.num_bytes <= self.max_bytes, "checkpoints take more than they may"
        assert len(self._tree) == len(self._checkpoints), "a checkpoint is lost"
        assert self._checkpoints.keys() == self._floors.keys(), "a checkpoint has no floor"
        numbers = [number for _, _, number in self._weights if number in self._checkpoints]
        assert sorted(numbers) == sorted(self._checkpoints), "a checkpoint has no weight"

    def _evict(self) -> None:
        while True:
            entry = self._weights[0]
            if entry[2] not in self._checkpoints:
                heapq.heappop(self._weights)
            elif (current := self._entry(entry[2])) > entry:
                heapq.heapreplace(self._weights, current)
            else:
                break
        self._floor = max(self._floor, current[0])
        self._remove(entry[2])
        self.num_evicted += 1

    def _thin(self, on_the_way: list[int]) -> None:
        """Of one conversation's, the shortest first, the one that is worth least goes, but none of the last ones."""
        lengths = [0, *(self._checkpoints[number].length for number in on_the_way)]
        saved = {
            number: length - before for number, (before, length) in zip(on_the_way, pairwise(lengths), strict=True)
        }
        self._remove(min(on_the_way[:-_NUM_LAST], key=lambda number: self._weight(number, saved[number])))
        self.num_evicted += 1

    def _use(self, number: int) -> None:
        self._num_uses += 1
        self._uses[number] += 1
        self._used_at[number] = self._num_uses
        self._floors[number] = self._floor

    def _entry(self, number: int) -> tuple[float, int, int]:
        return self._weight(number, self._num_saved(number)), self._used_at[number], number

    def _weight(self, number: int, num_saved: int) -> float:
        num_bytes = len(self._checkpoints[number].state)
        return self._floors[number] + min(self._uses[number], _MAX_USES) * num_saved / num_bytes

    def _num_saved(self, number: int) -> int:
        """Without it, what stands behind the next shorter one on its way has to be computed again."""
        on_the_way = self._tree.prefixes(self._tree.key(number), self._tree.salt(number))
        lengths = [self._checkpoints[other].length for other in on_the_way if other != number]
        return self._checkpoints[number].length - max(lengths, default=0)

    def _remove(self, number: int) -> None:
        self._tree.remove(number)
        self.num_bytes -= len(self._checkpoints.pop(number).state)
        del self._floors[number], self._uses[number], self._used_at[number]


def places(start: int, end: int, boundaries: Sequence[int], every: int) -> list[int]:
    """Where to take checkpoints while tokens [start, end) are computed, ascending.

    At the boundaries or, without any, at multiples of `every` (0: nowhere); and before the last token, which is
    computed anew whenever the same prompt comes back, unless the place before it is near.
    """
    last = end - 1
    inner = [place for place in boundaries if start < place < last]
    if boundaries:
        chosen = inner[-_NUM_LAST:]
        previous = start
        for place in inner[:-_NUM_LAST]:
            if previous == start or place - previous >= _MIN_APART:
                chosen.append(place)
                previous = place
    else:
        step = every * max(1, -(-last // (every * _MAX_REGULAR))) if every else last + 1
        chosen = list(range(step * (start // step + 1), last, step))
    chosen.sort()
    if last - max([start, *chosen[-1:]]) >= _MIN_SAVED:
        chosen.append(last)
    return chosen
