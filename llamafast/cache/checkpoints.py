"""Checkpoints: saved states of memories that cannot be cut. Where they are taken, and which ones are evicted."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llamafast.cache.prompt import TEXT_ONLY, Layout
from llamafast.cache.radix import SaltedTree

# A prompt is most likely to be edited at its last boundaries: each of the last _NUM_LAST gets a checkpoint. Earlier
# boundaries get one if they are _MIN_APART rows after the previous checkpoint.
_NUM_LAST = 4
_MIN_APART = 64
# Maximum checkpoints of a prompt without boundaries: a long prompt must not evict those of all other prompts.
_MAX_REGULAR = 8
# A checkpoint needs an additional step. Computing fewer rows than this again is cheaper.
_MIN_SAVED = 32
# Uses beyond this number do not raise the weight.
_MAX_USES = 8
# Maximum checkpoints of one conversation: a search reads all of them.
_MAX_PER_PATH = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a sequence after the first rows of a prompt.

    number: int, the owner number of the checkpoint in the store's tree.
    length: int, number of rows.
    state: bytes, the state as the memory wrote it.
    layout: Layout, the media spans of these rows. Spans after `length` are ignored.
    """

    number: int
    length: int
    state: bytes
    layout: Layout = TEXT_ONLY


class CheckpointStore:
    """Checkpoints in host memory, found by prefix.

    max_bytes: int, maximum size of all states together.
    num_bytes: int, their present size.
    num_evicted: int, number of checkpoints evicted so far.

    The checkpoint with the lowest weight is evicted. The weight is the rows that it saves per byte, times its uses,
    plus a floor. The floor rises with each eviction, so that unused checkpoints lose weight. Source:
    GreedyDual-Size-Frequency, Cherkasova 1998. Among equal weights, the least recently used one is evicted. A
    conversation with more than _MAX_PER_PATH checkpoints loses the one of lowest weight, but none of its last few.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evicted = 0
        self._tree = SaltedTree()
        self._checkpoints: dict[int, Checkpoint] = {}
        self._floor = 0.0  # weight of the heaviest checkpoint evicted so far
        self._floors: dict[int, float] = {}  # the floor at the last use of each
        self._uses: dict[int, int] = {}
        self._used_at: dict[int, int] = {}  # the number of all uses, at the last use of each
        self._num_uses = 0
        # A heap of (weight, used at, number). It contains removed checkpoints, too. A weight is too low if the
        # checkpoint was used, or a shorter one was removed, since the entry was made.
        self._weights: list[tuple[float, int, int]] = []
        self._num_added = 0

    def __len__(self) -> int:
        return len(self._checkpoints)

    def has(self, token_ids: array[int], salt: str) -> bool:
        """Whether the store has a checkpoint of exactly these ids."""
        found = self.find(token_ids, salt, len(token_ids))
        return found is not None and found.length == len(token_ids)

    def find(
        self, token_ids: array[int], salt: str, max_length: int, layout: Layout | None = None
    ) -> Checkpoint | None:
        """The longest checkpoint of a prefix of token_ids, at most max_length rows long, with the same media.

        layout: the media of token_ids; None: only the ids are compared.
        """
        found = [self._checkpoints[number] for number in self._tree.prefixes(token_ids, salt)]
        fitting = [checkpoint for checkpoint in found if checkpoint.length <= max_length]
        if layout is not None:
            fitting = [one for one in fitting if layout.common(one.layout, one.length) == one.length]
        return max(fitting, key=lambda checkpoint: checkpoint.length, default=None)

    def add(self, token_ids: array[int], salt: str, state: bytes, layout: Layout = TEXT_ONLY) -> None:
        """Keep the state after token_ids, unless it is larger than the cap. Others are evicted to make room."""
        if len(state) > self.max_bytes:
            return
        while self.num_bytes + len(state) > self.max_bytes:
            self._evict()
        path = self._tree.prefixes(token_ids, salt)
        if len(path) >= _MAX_PER_PATH:
            self._thin(path)
        self._num_added = number = self._num_added + 1
        self._tree.insert(number, token_ids, salt)
        self._checkpoints[number] = Checkpoint(number, len(token_ids), state, layout)
        self._uses[number] = 0
        self._use(number)
        self.num_bytes += len(state)
        if len(self._weights) > 2 * len(self._checkpoints):
            self._weights = [entry for entry in self._weights if entry[2] in self._checkpoints]
            heapq.heapify(self._weights)
        heapq.heappush(self._weights, self._entry(number))

    def touch(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint the most recently used one."""
        if checkpoint.number in self._checkpoints:
            self._use(checkpoint.number)

    def drop(self, token_ids: array[int], salt: str, above: int) -> None:
        """Remove the checkpoints of prefixes of token_ids that are longer than `above`, whose cells were freed."""
        for number in self._tree.prefixes(token_ids, salt):
            if self._checkpoints[number].length > above:
                self._remove(number)

    def prefixes(self) -> list[tuple[array[int], str]]:
        """(ids, salt) of each checkpoint. For tests and debug runs; O(total length)."""
        return [(self._tree.key(number), self._tree.salt(number)) for number in self._checkpoints]

    def check_integrity(self) -> None:
        """Assert that sizes, tree and weights are consistent."""
        assert self.num_bytes == sum(len(checkpoint.state) for checkpoint in self._checkpoints.values())
        assert self.num_bytes <= self.max_bytes, "checkpoints exceed max_bytes"
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

    def _thin(self, path: list[int]) -> None:
        """Evict the checkpoint of lowest weight of one conversation, but none of its last ones.

        path: numbers of its checkpoints, the shortest first.
        """
        lengths = [0, *(self._checkpoints[number].length for number in path)]
        saved = {number: length - before for number, (before, length) in zip(path, pairwise(lengths), strict=True)}
        self._remove(min(path[:-_NUM_LAST], key=lambda number: self._weight(number, saved[number])))
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
        """Number of rows after the next shorter checkpoint. Without this checkpoint they must be computed again."""
        path = self._tree.prefixes(self._tree.key(number), self._tree.salt(number))
        lengths = [self._checkpoints[other].length for other in path if other != number]
        return self._checkpoints[number].length - max(lengths, default=0)

    def _remove(self, number: int) -> None:
        self._tree.remove(number)
        self.num_bytes -= len(self._checkpoints.pop(number).state)
        del self._floors[number], self._uses[number], self._used_at[number]


def places(start: int, end: int, boundaries: Sequence[int], every: int, layout: Layout = TEXT_ONLY) -> list[int]:
    """The lengths at which to take checkpoints while rows [start, end) are computed, ascending.

    boundaries: lengths at which messages end. Each is a place, and the end of the last media span before it, too.
    every: without boundaries, multiples of `every` (0: none) are places, and the end of the last media span, too.

    The length before the last row (or before the media span at the end) is added unless the previous place is near,
    because a repeated prompt computes the rest again. No place splits a media span.
    """
    media_ends = layout.last_ends(boundaries)
    if boundaries and media_ends:
        boundaries = sorted({*boundaries, *media_ends})
    chosen = _text_places(start, layout.round_down(end - 1), boundaries, every)
    if not media_ends:
        return chosen
    if not boundaries:
        chosen += media_ends
    return sorted({place for place in map(layout.round_up, chosen) if start < place < end})


def _text_places(start: int, last: int, boundaries: Sequence[int], every: int) -> list[int]:
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
