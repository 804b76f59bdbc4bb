"""Slot and Segment: a sequence id in use, and the KV cells that slots share."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise

from llamafast.cache.prompt import TEXT_ONLY


class Slot:
    """One sequence id in use. The rows with indices [0, length) are in the KV memory.

    seq_id: int, the sequence id.
    length: int, number of rows in the memory.
    layout: Layout, the media spans of its rows. Spans after `length` are ignored.
    salt: str, only prompts with the same salt may use its rows; None: no other prompt may use them.
    places: list[int], lengths of planned checkpoints, descending, so that the next one is last.
    num_listed: int, number of its rows in the prefix index.
    num_unmoved: int, number of leading rows that a context shift has not moved; None: no row was moved.
    used_at: int, the cache's num_generated when it was last parked or matched.
    floor, cell_floor: the floors of ParkedSlots at that time.
    turn_end: int, a prompt that shares at least this many rows continues this conversation.
    num_turns: int, number of turns of the conversation so far.
    segments: list[Segment], its cells. Slots with a common prefix share segments:

        A: [----- s0 -----------)          A alone writes s0, B reads the first part of it
        B: [----- s0 --)[-- s1 ---)        so s0 holds max(end of A in s0, end of B in s0) cells

        Their starts ascend, and a slot that reads a segment reads all segments before it. Two segments with the same
        readers are merged. So a slot has one segment for each other slot that branches off it, plus one.
    """

    __slots__ = (
        "cell_floor",
        "floor",
        "layout",
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
        self.layout = TEXT_ONLY
        self.salt = salt
        self.places: list[int] = []
        self.num_listed = 0
        self.num_unmoved: int | None = None
        self.used_at = 0
        self.floor = 0
        self.cell_floor = 0.0
        self.turn_end = 0
        self.num_turns = 1
        self.segments: list[Segment] = []

    @property
    def next_place(self) -> int | None:
        """The length of the next planned checkpoint; None: no more are planned."""
        return self.places[-1] if self.places else None

    def add_place(self, place: int) -> None:
        """Plan a checkpoint at a length that the slot has not reached."""
        if self.length < place and place not in self.places:
            insort(self.places, place, key=lambda other: -other)

    @property
    def num_own(self) -> int:
        """Number of cells that no other slot holds. They are its last cells, because slots share prefixes."""
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
        """Share the first `length` cells of another slot."""
        for segment in source.segments:
            if segment.start < length:
                self.segments.append(segment)
                segment.readers.add(self)

    def grow_from(self, start: int) -> None:
        """Begin a segment at `start` for the following rows, unless the last segment has no other reader."""
        if self.segments and len(self.segments[-1].readers) == 1:
            return
        tail = Segment(start)
        tail.readers.add(self)
        self.segments.append(tail)

    def shorten(self, length: int) -> int:
        """Release all rows after the first `length`. Returns the number of cells that no slot holds any longer."""
        num_kept = bisect_left(self.segments, length, key=_start)
        left = self.segments[num_kept:]
        touched = self.segments[max(0, num_kept - 1) :]
        num_before = sum(segment.num_cells() for segment in touched)
        del self.segments[num_kept:]
        for segment in left:
            segment.readers.remove(self)
        self.length = length
        num_freed = num_before - sum(segment.num_cells() for segment in touched)
        for segment in reversed(left):  # from the last: a segment is merged with its next one before its previous one
            segment.merge_next()
        self.grow_from(length)
        return num_freed

    def holds_alone(self, start: int) -> bool:
        """Whether no other slot holds any of its cells from index `start` on."""
        return all(
            slot is self or min(slot.end_in(segment), self.end_in(segment)) <= start
            for segment in self.segments
            for slot in segment.readers
        )

    def drop(self, start: int, num_tokens: int) -> int:
        """Release num_tokens rows from index `start` on. Returns the number of cells that no slot holds any longer.

        The rows after them move up; no other slot may hold these. Cells that other slots also hold are not counted.
        """
        num_moved = self.length - start - num_tokens
        num_freed = self.shorten(start)
        self.length += num_moved
        return num_freed - num_moved

    def end_in(self, segment: Segment) -> int:
        """The index where its part of a segment ends: the start of its next segment, or its length."""
        i = self.place_of(segment) + 1
        return self.segments[i].start if i < len(self.segments) else self.length

    def place_of(self, segment: Segment) -> int:
        """The number of a segment among its segments."""
        return bisect_left(self.segments, segment.start, key=_start)

    def check_integrity(self) -> None:
        """Assert that it reads its segments, that they ascend, and that none must be merged."""
        segments = self.segments
        assert all(self in segment.readers for segment in segments), "a slot lost a segment"
        for segment, following in pairwise(segments):
            assert segment.start < following.start, "segments are out of order"
            assert segment.readers > following.readers, "two segments should be merged"


class Segment:
    """A run of cells, computed by one slot and read by one or more.

    start: int, index of the first row.
    readers: set[Slot], the slots that hold at least a part of it.
    """

    __slots__ = ("readers", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.readers: set[Slot] = set()

    def num_cells(self) -> int:
        """Number of cells: from the start to the last end of a reader."""
        return max((slot.end_in(self) for slot in self.readers), default=self.start) - self.start

    def merge_next(self) -> None:
        """Merge the next segment into this one if it has the same readers. Call it after a reader has left."""
        readers = self.readers
        some = next(iter(readers), None)
        if some is None:
            return
        i = some.place_of(self) + 1
        if i < len(some.segments) and len(some.segments[i].readers) == len(readers):
            for slot in readers:
                del slot.segments[i]


def grow(slots: Sequence[Slot], counts: Sequence[int]) -> int:
    """Add counts[i] computed rows to slots[i]. Returns the number of new cells."""
    num_cells = sum(counts)
    if num_cells == len(slots):  # most decodes compute one token each
        for slot in slots:
            slot.length += 1
    else:
        for slot, count in zip(slots, counts, strict=True):
            slot.length += count
    return num_cells


def num_held(slots: Iterable[Slot]) -> int:
    """Number of cells that at least one of these slots holds."""
    ends: dict[Segment, int] = {}
    for slot in slots:
        for segment in slot.segments:
            ends[segment] = max(ends.get(segment, 0), slot.end_in(segment))
    return sum(end - segment.start for segment, end in ends.items())


def _start(segment: Segment) -> int:
    return segment.start
