"""PrefixCache: sequence ids, shared cells, parked prefixes, least recently used first."""

from __future__ import annotations

from array import array

import pytest

from llamafast.cache.lookup import Match
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.cache.slots import Slot
from tests.engine.fakes import FakeContext

NOTHING = Match(0, None)


def ids(text: str) -> array:
    return array("i", list(text.encode()))


class Bench:
    """A cache on a fake memory, with methods that compute rows."""

    def __init__(self, n_slots=4, n_cells=64, **settings) -> None:
        kv_unified = not settings.get("copies_cells", False)
        kind = settings.get("kind", "attention")
        swa_full = settings.setdefault("swa_full", kind != "swa")
        self.memory = FakeContext(n_cells, n_slots, kind=kind, kv_unified=kv_unified, swa_full=swa_full)
        settings.setdefault("n_swa", self.memory.n_swa if kind == "swa" else 0)
        settings.setdefault("reuse", True)
        self.cache = PrefixCache(self.memory, n_slots=n_slots, n_cells=n_cells, **settings)

    def compute(self, slot: Slot, text: str) -> None:
        for i in range(slot.length, len(text)):
            self.memory.add_cell(i, ord(text[i]), slot.seq_id)
            self.cache.advance(slot, 1, ids(text))
        self.check()

    def start(self, text: str, boundaries=(), salt="") -> Slot:
        """A live slot with the rows of `text`; a cached prefix is reused."""
        slot = self.cache.open(self.cache.match(ids(text), salt), salt)
        self.cache.announce(slot, ids(text), boundaries, boundaries[-1] if boundaries else 0)
        self.compute(slot, text)
        self.cache.register(slot, ids(text))
        return slot

    def park(self, slot: Slot, text: str) -> None:
        self.cache.park(slot, ids(text))
        self.check()

    def check(self) -> None:
        self.cache.check_integrity()
        assert self.cache.num_cells == len(self.memory.cells)


def test_open_fresh_slots_take_the_lowest_ids():
    bench = Bench()
    slots = [bench.cache.open(NOTHING) for _ in range(3)]
    bench.cache.free(slots[1])
    assert [slot.seq_id for slot in slots] == [0, 1, 2]
    assert bench.cache.open(NOTHING).seq_id == 1


def test_match_leaves_the_last_token_to_compute():
    bench = Bench()
    slot = bench.start("abcdef")
    assert bench.cache.match(ids("abcdef")) == Match(5, slot)
    assert bench.cache.match(ids("abcx")) == Match(3, slot)
    assert bench.cache.match(ids("xabc")) == NOTHING


def test_open_live_prefix_shares_its_cells():
    bench = Bench()
    bench.start("abcdef")
    other = bench.start("abcxyz")
    assert bench.cache.num_cells == 9
    assert bench.memory.history(other.seq_id) == tuple(b"abcxyz")


def test_free_shared_cells_stay_until_the_last_reader():
    bench = Bench()
    first = bench.start("abcdef")
    second = bench.start("abcxyz")
    third = bench.start("abcxq")
    bench.cache.free(first)
    bench.check()
    assert bench.cache.num_cells == 7  # abcxyz and q
    bench.cache.free(second)
    bench.check()
    assert bench.cache.num_cells == 5
    bench.cache.free(third)
    bench.check()
    assert bench.cache.num_cells == 0


def test_fork_both_slots_continue_alone():
    bench = Bench()
    first = bench.start("abc")
    second = bench.cache.fork(first)
    bench.compute(first, "abcd")
    bench.compute(second, "abcx")
    third = bench.cache.fork(first)
    bench.compute(third, "abcdz")
    assert bench.cache.num_cells == 6
    assert bench.memory.history(second.seq_id) == tuple(b"abcx")


def test_fork_streams_take_cells_of_their_own():
    bench = Bench(copies_cells=True, reuse=False)
    first = bench.start("abc")
    second = bench.cache.fork(first)
    bench.compute(second, "abcx")
    assert bench.cache.num_cells == 7
    bench.cache.free(first)
    bench.check()
    assert bench.cache.num_cells == 4


def test_park_prefix_is_found_again():
    bench = Bench()
    slot = bench.start("abcdef")
    bench.park(slot, "abcdefgh")  # h was sampled and never computed
    assert bench.cache.match(ids("abcdefghi")) == Match(6, slot)
    assert bench.cache.num_parked == 1
    assert bench.cache.num_live_cells() == 0


def test_park_without_reuse_frees():
    bench = Bench(reuse=False)
    slot = bench.start("abc")
    bench.park(slot, "abc")
    assert bench.cache.num_cells == 0
    assert bench.cache.match(ids("abcd")) == NOTHING


def test_park_rows_that_another_slot_holds_are_freed():
    bench = Bench()
    bench.park(bench.start("abcdef"), "abcdef")
    bench.park(bench.start("abcd"), "abcd")
    assert bench.cache.num_parked == 1
    assert bench.cache.num_cells == 6


def test_park_longer_list_replaces_its_parked_prefix():
    bench = Bench()
    bench.park(bench.start("abc"), "abc")
    bench.park(bench.start("abcdef"), "abcdef")
    assert bench.cache.num_parked == 1
    assert bench.cache.num_cells == 6


def test_evict_takes_the_least_recently_used():
    bench = Bench()
    for text in ("aaaa", "bbbb", "cccc"):
        bench.park(bench.start(text), text)
    bench.cache.free(bench.start("aaax"))  # uses the oldest
    assert bench.cache.evict()
    bench.check()
    assert bench.cache.match(ids("bbbb")) == NOTHING
    assert bench.cache.match(ids("aaaa")).length == 3


def test_evict_nothing_parked_returns_false():
    bench = Bench()
    bench.start("abc")
    assert not bench.cache.evict()


def test_open_no_free_id_evicts_a_parked_one():
    bench = Bench(n_slots=2)
    bench.park(bench.start("aaaa"), "aaaa")
    bench.park(bench.start("bbbb"), "bbbb")
    slot = bench.start("bbbx")
    assert bench.memory.history(slot.seq_id) == tuple(b"bbbx")
    assert bench.cache.num_cells == 5
    assert bench.cache.match(ids("aaaa")) == NOTHING


def test_open_only_id_is_the_matched_one_takes_it_over():
    bench = Bench(n_slots=1)
    bench.park(bench.start("aaaa"), "aaaa")
    slot = bench.start("aaab")
    assert slot.seq_id == 0
    assert bench.memory.history(0) == tuple(b"aaab")


def test_park_over_the_limit_keeps_the_newest():
    bench = Bench(n_cells_kept=9)
    for text in ("aaaa", "bbbb", "cccc"):
        bench.park(bench.start(text), text)
    assert bench.cache.num_cells == 8
    assert bench.cache.match(ids("aaaa")) == NOTHING


def test_park_prefix_unused_for_long_is_dropped():
    bench = Bench(max_idle_tokens=10)
    for text in ("aaaa", "bbbb"):
        bench.park(bench.start(text), text)
    bench.cache.note_generated(8)
    bench.cache.free(bench.start("aaax"))
    bench.cache.note_generated(8)
    bench.park(bench.start("cccc"), "cccc")
    assert bench.cache.match(ids("bbbb")) == NOTHING
    assert bench.cache.match(ids("aaaa")).length == 3


@pytest.mark.parametrize(("wanted", "fits", "num_parked"), [(4, True, 2), (8, True, 1), (12, True, 0), (13, False, 2)])
def test_make_room_evicts_no_more_than_needed(wanted, fits, num_parked):
    bench = Bench(n_cells=16)
    for text in ("aaaa", "bbbb"):
        bench.park(bench.start(text), text)
    bench.start("cccc")
    assert bench.cache.make_room(wanted) is fits
    assert bench.cache.num_parked == num_parked
    bench.check()


def test_num_live_cells_counts_shared_cells_once():
    bench = Bench()
    bench.park(bench.start("abcdefgh"), "abcdefgh")
    bench.start("abcdx")
    bench.start("abcdy")
    assert bench.cache.num_live_cells() == 6
    assert bench.cache.num_cells == 10


def test_announce_tells_until_it_is_registered():
    bench = Bench()
    slot = bench.cache.open(NOTHING)
    bench.cache.announce(slot, ids("abcd"))
    assert bench.cache.match(ids("abcx")) == NOTHING
    assert bench.cache.match_announced(ids("abcx")) == Match(3, slot)
    assert bench.cache.is_announced(slot)
    bench.compute(slot, "abcd")
    bench.cache.register(slot, ids("abcd"))
    assert not bench.cache.is_announced(slot)
    assert bench.cache.match(ids("abcx")) == Match(3, slot)


def test_drop_idle_needs_no_one_to_finish():
    bench = Bench(max_idle_tokens=10)
    bench.park(bench.start("one"), "one")
    bench.cache.note_generated(11)
    bench.cache.drop_idle()
    assert bench.cache.num_parked == 0


def test_regret_keeps_idle_prefixes_twice_as_long_as_needed():
    text = "a prompt that is long enough to be worth a regret"
    bench = Bench(max_idle_tokens=10)
    for idle, kept in ((20, 0), (39, 1)):
        bench.cache.regret(ids(text), "", 0)
        bench.park(bench.start(text), text)
        bench.cache.note_generated(idle)
        bench.cache.drop_idle()
        assert bench.cache.num_parked == kept


def idle_bench(*texts: str) -> Bench:
    """Park eight texts and then these. No request repeats one of them."""
    bench = Bench(n_cells=9999, max_idle_tokens=512)
    for text in (*(f"{number} asks something that nobody asks again" for number in range(8)), *texts):
        bench.park(bench.start(text), text)
        bench.cache.note_generated(513 if text[0].isdigit() else 0)
        bench.cache.drop_idle()
    return bench


def test_drop_idle_without_repeated_prompts_drops_sooner():
    bench = idle_bench("a last one")
    bench.cache.note_generated(257)
    bench.cache.drop_idle()
    assert bench.cache.num_parked == 0


def test_drop_idle_with_a_repeated_prompt_drops_as_late_as_before():
    text = "a prompt that is long enough to be wanted again"
    bench = idle_bench(text)
    bench.park(bench.start(text), text)
    bench.cache.note_generated(512)
    bench.cache.drop_idle()
    assert bench.cache.num_parked > 0


@pytest.mark.parametrize(("num_common", "length"), [(12, 0), (30, 30)])
def test_match_in_a_sliding_window_only_where_the_window_remains(num_common, length):
    text = "one text, longer than a window"
    bench = Bench(kind="swa")
    bench.park(bench.start(text), text)
    assert bench.cache.match(ids(text[:num_common] + "zz")).length == length


def test_open_empty_takes_no_stream_that_a_copy_is_still_to_reach_or_leave():
    bench = Bench(n_slots=4, n_cells=400, copies_cells=True)
    bench.park(bench.start("a" * 40), "a" * 40)
    slot = bench.cache.open(NOTHING)
    assert slot.seq_id == 0  # the parked slot moves to 1
    assert bench.cache.open_empty("").seq_id == 2
    bench.cache.free(slot)
    assert bench.cache.open_empty("").seq_id == 3
    assert bench.cache.open_empty("") is None
    bench.cache.note_decode()
    assert bench.cache.open_empty("").seq_id == 0
