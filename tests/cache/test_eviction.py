"""The order of evictions: the prefix that costs least to compute again is evicted first."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.cache.test_prefix_cache import Bench, ids

SYSTEM = "s" * 40
LONG = SYSTEM + "".join(chr(65 + i % 50) for i in range(360))


def parked(bench: Bench, text: str, boundaries=()) -> None:
    bench.park(bench.start(text, boundaries), text)


def num_kept(bench: Bench, text: str) -> int:
    return bench.cache.match(ids(text + "."), "").length


@pytest.mark.parametrize("kind", ["attention", "swa", "hybrid"])
def test_make_room_takes_the_end_of_a_long_conversation(kind):
    bench = Bench(n_cells=500, kind=kind)
    boundaries = tuple(range(40, 400, 40))
    parked(bench, LONG, boundaries)
    assert bench.cache.make_room(150)
    bench.check()
    least, most = {"attention": (336, 336), "swa": (40, 336), "hybrid": (320, 320)}[kind]
    assert least <= num_kept(bench, LONG) <= most
    bench.start(LONG, boundaries)


def test_make_room_shared_system_prompt_survives_every_eviction():
    bench = Bench(n_cells=500)
    parked(bench, LONG)
    parked(bench, SYSTEM + "x" * 60)
    assert bench.cache.make_room(400)
    bench.check()
    assert num_kept(bench, SYSTEM) == 40


def test_evict_conversation_outlives_many_unrelated_prompts():
    bench = Bench(n_slots=20, n_cells=400)
    turns = [LONG[:60], LONG[:90], LONG[:120], LONG[:150]]
    for turn in turns:
        parked(bench, turn)
    for i in range(6):
        bench.cache.make_room(60)
        parked(bench, f"{i}" * 60)
    assert num_kept(bench, turns[-1]) == 150


def test_evict_conversation_that_is_not_continued_is_evicted_at_last():
    bench = Bench(n_slots=20, n_cells=400)
    for turn in (LONG[:60], LONG[:90], LONG[:120], LONG[:150]):
        parked(bench, turn)
    for i in range(40):
        bench.cache.make_room(60)
        parked(bench, f"{i:02}" * 30)
    assert num_kept(bench, LONG[:150]) == 0


def test_evict_sharing_a_system_prompt_is_no_turn():
    bench = Bench(n_slots=20, n_cells=1000)
    texts = [SYSTEM + f"{i}" * 20 for i in range(4)]
    for text in texts:
        parked(bench, text)
    assert [slot.num_turns for slot in bench.cache.slots()] == [1, 1, 1, 1]
    bench.cache.free(bench.start(texts[0] + "and on"))
    bench.cache.evict()
    assert [num_kept(bench, text) for text in texts] == [60, 40, 60, 60]


def test_evict_hybrid_counts_rows_without_a_checkpoint():
    bench = Bench(n_slots=20, n_cells=1000, kind="hybrid", checkpoint_every=0)
    parked(bench, LONG, (100,))
    parked(bench, "x" * 100)
    branch = LONG[:100] + "y" * 100
    parked(bench, branch, (100,))
    # Without the checkpoint, evicting the end of LONG or of the branch also costs their 100 common tokens.
    bench.cache.checkpoints.drop(ids(branch), "", above=0)
    bench.cache.evict()
    assert num_kept(bench, "x" * 100) == 0


def test_make_room_again_and_again_frees_all_in_the_end():
    bench = Bench(n_cells=500)
    parked(bench, LONG)
    parked(bench, "x" * 90)
    kept = []
    for wanted in range(20, 501, 20):
        assert bench.cache.make_room(wanted)
        bench.check()
        kept.append(num_kept(bench, LONG))
    assert all(before >= after for before, after in pairwise(kept))
    assert bench.cache.num_parked == 0


def test_give_way_without_a_known_lack_frees_a_whole_slot():
    bench = Bench(n_cells=500)
    parked(bench, LONG)
    assert bench.cache.give_way(10)
    assert (bench.cache.num_parked, bench.cache.give_way(10)) == (0, False)
