"""CheckpointStore, and the places where checkpoints are taken."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest

from llamafast.cache.checkpoints import CheckpointStore, places
from llamafast.cache.prompt import Layout, Prompt
from tests.cache.test_prompt import image


def ids(text: str) -> array:
    return array("i", list(text.encode()))


def filled(max_bytes=100, *texts: str) -> CheckpointStore:
    store = CheckpointStore(max_bytes)
    for text in texts:
        store.add(ids(text), "", text.encode() * 4)
    store.check_integrity()
    return store


def test_find_takes_the_longest_that_is_allowed():
    store = filled(100, "ab", "abcd", "abx")
    assert store.find(ids("abcdef"), "", 6).length == 4
    assert store.find(ids("abcdef"), "", 3).length == 2
    assert store.find(ids("b"), "", 1) is None


def test_find_other_salt_finds_nothing():
    assert filled(100, "ab").find(ids("abc"), "tenant", 3) is None


def test_add_over_the_cap_drops_the_least_recently_used():
    store = filled(40, "aaaa", "bbbb")
    store.touch(store.find(ids("aaaa"), "", 4))
    store.add(ids("cccc"), "", b"c" * 16)
    store.check_integrity()
    assert [store.has(ids(text * 4), "") for text in "abc"] == [True, False, True]
    assert (store.num_bytes, store.num_evicted) == (32, 1)


def test_add_over_the_cap_drops_the_one_that_saves_least_per_byte():
    store = CheckpointStore(100)
    for text, num_bytes in (("a" * 40, 40), ("b" * 8, 40), ("a" * 44, 16)):
        store.add(ids(text), "", bytes(num_bytes))
    store.add(ids("c" * 30), "", bytes(30))
    store.check_integrity()
    assert [store.has(ids(text), "") for text in ("a" * 40, "b" * 8, "a" * 44, "c" * 30)] == [True, False, True, True]


def test_add_over_the_cap_subtracts_the_rows_of_the_shorter_one():
    store = filled(40, "aaaaaaaa")
    store.add(ids("aaaaaaaabb"), "", bytes(4))
    store.drop(ids("aaaaaaaa"), "", above=0)
    store.add(ids("cccccccc"), "", bytes(32))
    store.add(ids("dddddddd"), "", bytes(32))
    store.check_integrity()
    assert [store.has(ids(text), "") for text in ("aaaaaaaabb", "cccccccc", "dddddddd")] == [True, False, True]


def test_add_many_unused_ones_keeps_a_reused_one():
    store = filled(64, "aaaa")
    for i in range(12):
        store.touch(store.find(ids("aaaa"), "", 4)) if i < 3 else None
        store.add(ids(f"{i:04}"), "", bytes(16))
    assert store.has(ids("aaaa"), "")
    for i in range(12):
        store.add(ids(f"{i:03}x"), "", bytes(16))
    assert not store.has(ids("aaaa"), ""), "a checkpoint that is no longer used is not evicted"


def test_add_state_larger_than_the_cap_is_not_kept():
    store = filled(10, "aaaa")
    assert len(store) == store.num_bytes == store.num_evicted == 0


def test_drop_forgets_the_longer_ones_on_the_path():
    store = filled(100, "ab", "abcd", "abx")
    store.drop(ids("abcdef"), "", above=2)
    store.check_integrity()
    assert [store.has(ids(text), "") for text in ("ab", "abcd", "abx")] == [True, False, True]


def long_conversation() -> tuple[CheckpointStore, array]:
    """A checkpoint every ten tokens, 300 times. Other prompts use the one after the first ten tokens."""
    store, tokens = CheckpointStore(10**6), array("i")
    for i in range(300):
        tokens.extend([i] * 10)
        store.add(tokens, "", bytes(16))
        store.touch(store.find(tokens, "", 10))
    store.check_integrity()
    return store, tokens


def test_add_long_conversation_keeps_a_few():
    store, _ = long_conversation()
    assert len(store) == 64
    assert store.num_evicted == 300 - 64


def test_add_long_conversation_keeps_the_last_and_the_reused_ones():
    store, tokens = long_conversation()
    kept = [length for length in range(10, 3001, 10) if store.has(tokens[:length], "")]
    assert kept[-4:] == [2970, 2980, 2990, 3000]
    assert kept[0] == 10


def test_add_long_conversation_leaves_no_wide_gap():
    store, tokens = long_conversation()
    kept = [length for length in range(10, 3001, 10) if store.has(tokens[:length], "")]
    assert max(after - before for before, after in pairwise(kept)) <= 100


@pytest.mark.parametrize(
    ("start", "end", "boundaries", "expected"),
    [
        (0, 1300, (), [512, 1024, 1299]),
        (600, 1300, (), [1024, 1299]),
        (0, 20, (), []),  # computing it again costs as little as a checkpoint
        (0, 40, (), [39]),
        (0, 200, (50, 100, 150), [50, 100, 150, 199]),
        (100, 200, (50, 100, 150), [150, 199]),
        (0, 160, (50, 100, 150), [50, 100, 150]),  # the last boundary is near the end
        (190, 1000, (50, 100, 150), [999]),
    ],
)
def test_places_boundaries_and_the_end(start, end, boundaries, expected):
    assert places(start, end, boundaries, 512) == expected


def test_places_long_prompt_keeps_a_few():
    assert places(0, 100_001, (), 512) == [12800, 25600, 38400, 51200, 64000, 76800, 89600, 100_000]


def test_places_many_boundaries_are_thinned_but_for_the_last():
    assert places(0, 400, tuple(range(10, 400, 10)), 512) == [10, 80, 150, 220, 290, 360, 370, 380, 390]


def test_places_switched_off_leave_the_end():
    assert places(0, 2000, (), 0) == [1999]


@pytest.mark.parametrize(
    ("parts", "boundaries", "expected"),
    [
        ([[1] * 40, image("A"), [1] * 60], (), [46, 105]),
        ([[1] * 40, image("A"), [1] * 60], (20, 90), [20, 46, 90]),
        ([[1] * 40, image("A"), [1] * 4, image("B"), [1] * 60], (20, 100), [20, 56, 100]),  # one for a message
        ([[1] * 60, image("A")], (), [60]),  # the last image is always computed again
        ([[1] * 508, image("A", 8), [1] * 60], (), [516, 575]),  # a regular place moves to the end of the image
    ],
)
def test_places_with_media_split_no_span(parts, boundaries, expected):
    prompt = Prompt.join(parts)
    assert places(0, prompt.num_rows, boundaries, 512, prompt.layout) == expected


def test_find_of_forged_ids_takes_no_other_media():
    one, other = (Prompt.join([[1, 2], image(name)]) for name in "AB")
    store = CheckpointStore(100)
    store.add(one.ids, "", b"state", one.layout)
    lengths = [store.find(one.ids, "", 8, layout) for layout in (one.layout, other.layout, Layout())]
    assert [found and found.length for found in lengths] == [8, None, None]
