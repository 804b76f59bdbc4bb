"""States of memories that cannot be cut, kept in host memory: where they are taken, and which one serves a prompt."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state behind the first `length` tokens of a prompt. number: its owner in the store's tree."""

    number: int
    length: int
    state: bytes


class CheckpointStore:
    """Checkpoints by token prefix; their states take max_bytes at most.

    What goes first: tokens that it saves by bytes that it takes, times its uses, more so the later it was used. Source:
    GreedyDual-Size-Frequency, Cherkasova 1998. Of equals, the one that was used least recently.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evicted = 0
        self._tree = SaltedTree()
        self._checkpoints: dict[int, Checkpoint] = {}  # the least recently used first
        self._floor = 0.0  # rises to the weight of what is evicted
        self._floors: dict[int, float] = {}  # as it was when each was used last
        self._uses: dict[int, int] = {}
        self._weights: dict[int, float] = {}  # too low where a shorter one has gone since
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
        self._num_added += 1
        self._tree.insert(self._num_added, token_ids, salt)
        self._checkpoints[self._num_added] = Checkpoint(self._num_added, len(token_ids), state)
        self._uses[self._num_added] = 0
        self._use(self._num_added)
        self.num_bytes += len(state)

    def touch(self, checkpoint: Checkpoint) -> None:
        """It is now the most recently used."""
        if self._checkpoints.pop(checkpoint.number, None) is not None:
            self._checkpoints[checkpoint.number] = checkpoint
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
        assert self._checkpoints.keys() == self._floors.keys() == self._weights.keys(), "a checkpoint has no weight"

    def _evict(self) -> None:
        weights = self._weights
        while True:
            victim = min(self._checkpoints, key=lambda number: weights[number])
            weight = self._floors[victim] + self._value(victim)
            if weight <= weights[victim]:
                break
            weights[victim] = weight
        self._floor = max(self._floor, weight)
        self.num_evicted += 1
        self._remove(victim)

    def _use(self, number: int) -> None:
        self._uses[number] += 1
        self._floors[number] = self._floor
        self._weights[number] = self._floor + self._value(number)

    def _value(self, number: int) -> float:
        """Without it, what stands behind the next shorter one on its way has to be computed again."""
        checkpoint = self._checkpoints[number]
        on_the_way = self._tree.prefixes(self._tree.key(number), self._tree.salt(number))
        lengths = [self._checkpoints[other].length for other in on_the_way if other != number]
        num_saved = checkpoint.length - max(lengths, default=0)
        return min(self._uses[number], _MAX_USES) * num_saved / len(checkpoint.state)

    def _remove(self, number: int) -> None:
        self._tree.remove(number)
        self.num_bytes -= len(self._checkpoints.pop(number).state)
        del self._floors[number], self._uses[number], self._weights[number]


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
