"""Sequence ids in use, and the cells that they share."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise


class Slot:
    """One sequence id in use. Positions [0, length) are in the KV memory.

    It is cut into segments, each of which it shares with the slots copied from it, or it from them:

        A: [----- s0 -----------)          s0 is written by A alone, B reads the first part of it
        B: [----- s0 --)[-- s1 ---)        so s0 holds max(end of A in s0, end of B in s0) cells

    Their starts ascend, and each reader of a segment reads all before it too. Where all of a segment's readers go on to
    the same next one, the two become one: a slot has as many segments as others part from it, however many turns ago.
    """

    __slots__ = (
        "cell_floor",
        "floor",
        "length",
        "num_listed",
        "num_turns",
        "num_unmoved",
        "places",
        "salt",
        "segments",
        "seq_id",
        "turn_end",
        "used_at",
    )

    def __init__(self, seq_id: int, length: int, salt: str | None = "") -> None:
        self.seq_id = seq_id
        self.length = length
        self.salt = salt  # None: what it holds is for nobody else
        self.places: list[int] = []  # where its checkpoints are to be taken, the next one last
        self.num_listed = 0  # tokens under which others find it
        self.num_unmoved: int | None = None  # tokens in front that stand where they were computed; None: all
        self.used_at = 0  # num_generated of the cache when it was parked or matched last
        self.floor = 0  # of the parked slots' weights at that time
        self.cell_floor = 0.0
        self.turn_end = 0  # whoever shares so many tokens goes on with this conversation
        self.num_turns = 1  # of the conversation so far
        self.segments: list[Segment] = []

    @property
    def next_place(self) -> int | None:
        """Where the next checkpoint is to be taken."""
        return self.places[-1] if self.places else None

    def add_place(self, place: int) -> None:
        """Have the slot stop at a place that it has not passed, for a checkpoint."""
        if self.length < place and place not in self.places:
            insort(self.places, place, key=lambda other: -other)

    @property
    def num_own(self) -> int:
        """Cells that no other slot holds: its last ones, for slots share beginnings."""
        num_own, end = 0, self.length
        for segment in reversed(self.segments):
            start = segment.start
            for slot in segment.readers:
                if slot is not self and (other_end := slot.end_in(segment)) > start:
                    start = other_end
                    if start >= end:
                        return num_own
            num_own += end - start
            end = segment.start
        return num_own

    def share(self, source: Slot, length: int) -> None:
        """Begin with the first `length` cells of another slot."""
        for segment in source.segments:
            if segment.start < length:
                self.segments.append(segment)
                segment.readers.add(self)

    def grow_from(self, start: int) -> None:
        """What is computed from `start` on gets a segment of its own, unless the last one is that already."""
        if self.segments and len(self.segments[-1].readers) == 1:
            return
        tail = Segment(start)
        tail.readers.add(self)
        self.segments.append(tail)

    def shorten(self, length: int) -> int:
        """Give back all behind `length` tokens; how many cells nobody holds any more."""
        num_kept = bisect_left(self.segments, length, key=_start)
        left = self.segments[num_kept:]
        touched = self.segments[max(0, num_kept - 1) :]
        num_before = sum(segment.num_cells() for segment in touched)
        del self.segments[num_kept:]
        for segment in left:
            segment.readers.remove(self)
        self.length = length
        num_freed = num_before - sum(segment.num_cells() for segment in touched)
        for segment in reversed(left):  # the last first: none is taken in before it has taken in its own next one
            segment.merge_next()
        self.grow_from(length)
        return num_freed

    def holds_alone(self, start: int) -> bool:
        """Whether no other slot holds any of its cells from position `start` on."""
        return all(
            slot is self or min(slot.end_in(segment), self.end_in(segment)) <= start
            for segment in self.segments
            for slot in segment.readers
        )

    def drop(self, start: int, num_tokens: int) -> int:
        """Give back num_tokens from `start` on; all behind them, which it holds alone, moves up. How many cells it was.

        Cells that others hold too are not given back.
        """
        num_moved = self.length - start - num_tokens
        num_freed = self.shorten(start)
        self.length += num_moved
        return num_freed - num_moved

    def end_in(self, segment: Segment) -> int:
        """Where it leaves a segment: at the start of its next one, or at its own end."""
        i = self.place_of(segment) + 1
        return self.segments[i].start if i < len(self.segments) else self.length

    def place_of(self, segment: Segment) -> int:
        """Its number among the slot's segments."""
        return bisect_left(self.segments, segment.start, key=_start)

    def check_integrity(self) -> None:
        """Assert that it reads its segments, that they ascend, and that none should be part of the one before it."""
        segments = self.segments
        assert all(self in segment.readers for segment in segments), "a slot lost a segment"
        for segment, following in pairwise(segments):
            assert segment.start < following.start, "segments are out of order"
            assert segment.readers > following.readers, "two segments should be one"


class Segment:
    """A run of cells from position `start` on, computed by one slot and read by some."""

    __slots__ = ("readers", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.readers: set[Slot] = set()

    def num_cells(self) -> int:
        return max((slot.end_in(self) for slot in self.readers), default=self.start) - self.start

    def merge_next(self) -> None:
        """Take in the next segment if all who read this one read that too; to be called when a reader has left."""
        readers = self.readers
        some = next(iter(readers), None)
        if some is None:
            return
        i = some.place_of(self) + 1
        if i < len(some.segments) and len(some.segments[i].readers) == len(readers):
            for slot in readers:
                del slot.segments[i]


def grow(slots: Sequence[Slot], counts: Sequence[int]) -> int:
    """Add counts[i] tokens to slots[i], which a decode has computed; how many cells they are."""
    num_cells = sum(counts)
    if num_cells == len(slots):  # most decodes compute one token each
        for slot in slots:
            slot.length += 1
    else:
        for slot, count in zip(slots, counts, strict=True):
            slot.length += count
    return num_cells


def num_held(slots: Iterable[Slot]) -> int:
    """Cells that some of these slots hold, each counted once."""
    ends: dict[Segment, int] = {}
    for slot in slots:
        for segment in slot.segments:
            ends[segment] = max(ends.get(segment, 0), slot.end_in(segment))
    return sum(end - segment.start for segment, end in ends.items())


def _start(segment: Segment) -> int:
    return segment.start
