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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state behind the first `length` tokens of a prompt. number: its owner in the store's tree."""

    number: int
    length: int
    state: bytes


class CheckpointStore:
    """Checkpoints by token prefix, the least recently used first; their states take max_bytes at most."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evicted = 0
        self._tree = SaltedTree()
        self._checkpoints: dict[int, Checkpoint] = {}
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
        """Keep the state behind token_ids, if it fits at all; the least recently used go for it."""
        if len(state) > self.max_bytes:
            return
        while self.num_bytes + len(state) > self.max_bytes:
            self.num_evicted += 1
            self._remove(next(iter(self._checkpoints)))
        self._num_added += 1
        self._tree.insert(self._num_added, token_ids, salt)
        self._checkpoints[self._num_added] = Checkpoint(self._num_added, len(token_ids), state)
        self.num_bytes += len(state)

    def touch(self, checkpoint: Checkpoint) -> None:
        """It is now the most recently used."""
        if self._checkpoints.pop(checkpoint.number, None) is not None:
            self._checkpoints[checkpoint.number] = checkpoint

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

    def _remove(self, number: int) -> None:
        self._tree.remove(number)
        self.num_bytes -= len(self._checkpoints.pop(number).state)


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
