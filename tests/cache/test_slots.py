"""Segments of slots: their number in a long conversation, and the sum of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llamafast.cache.slots import Slot
from tests.cache.test_prefix_cache import Bench, ids


def turn(bench: Bench, text: str) -> Slot:
    """One turn of a conversation, computed in one step and parked."""
    cache = bench.cache
    slot = cache.open(cache.match(ids(text)))
    cache.announce(slot, ids(text))
    assert cache.make_room(len(text) - slot.length)
    num_new = len(text) - slot.length
    for i in range(slot.length, len(text)):
        bench.memory.add_cell(i, ord(text[i]), slot.seq_id)
    cache.advance(slot, num_new, ids(text))
    cache.register(slot, ids(text))
    cache.park(slot, ids(text))
    cache.num_live_cells()
    return slot


@contextmanager
def counted_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[n]: number of calls of Slot.end_in."""
    count, end_in = [0], Slot.end_in

    def counting(slot: Slot, segment: object) -> int:
        count[0] += 1
        return end_in(slot, segment)

    with monkeypatch.context() as patch:
        patch.setattr(Slot, "end_in", counting)
        yield count


def test_turn_late_in_a_conversation_is_as_much_work_as_an_early_one(monkeypatch):
    bench = Bench(n_slots=8, n_cells=4000)
    text, work = "", {}
    for i in range(200):
        text += f"{i:03}"
        with counted_ends(monkeypatch) as count:
            turn(bench, text)
        work[i] = count[0]
    assert work[199] == work[10]
    bench.check()


def test_conversation_alone_is_one_segment():
    bench = Bench(n_slots=8, n_cells=4000)
    slots = [turn(bench, "abc" * i) for i in range(1, 30)]
    assert len(slots[-1].segments) == 1


def test_branch_that_is_freed_leaves_one_segment():
    bench = Bench(n_slots=8)
    turn(bench, "common")
    branches = [turn(bench, f"common{name}{name}") for name in "abc"]
    # The first slot has merged its own segment with the common one.
    assert [len(slot.segments) for slot in branches] == [1, 2, 2]
    for slot in branches[:2]:
        bench.cache.free(slot)
        bench.check()
    assert len(branches[2].segments) == 1


def test_branches_at_several_places_freed_in_any_order_keep_all_cells_of_the_trunk():
    for gone in ("xyz", "zyx", "yxz", "yzx"):
        bench = Bench(n_slots=8)
        trunk = turn(bench, "abcdefgh")
        branches = {name: turn(bench, "abcdefgh"[: 2 * i + 2] + name) for i, name in enumerate("xyz")}
        for name in gone:
            bench.cache.free(branches[name])
            bench.check()
        assert (len(trunk.segments), bench.cache.num_cells) == (1, 8)


def test_trunk_that_is_freed_leaves_each_branch_its_segments():
    bench = Bench(n_slots=8)
    trunk = turn(bench, "abcdefgh")
    branches = [turn(bench, text) for text in ("abx", "abcdy", "abcdyz12")]
    bench.cache.free(trunk)
    bench.check()
    assert bench.cache.num_cells == len("abx") + len("cdyz12")
    assert bench.memory.history(branches[2].seq_id) == tuple(b"abcdyz12")
