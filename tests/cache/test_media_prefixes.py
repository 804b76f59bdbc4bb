"""The prefix cache with media: random histories on fakes of every kind of memory, which check each row's position."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.cache.lookup import Match
from llamafast.cache.prefix_cache import PrefixCache
from llamafast.cache.prompt import MediaSpan, Prompt
from llamafast.cache.slots import Slot
from tests.cache.test_prompt import audio, image, num_equal_ids
from tests.engine.fakes import FakeContext

# Parts of prompts, so that prompts share prefixes and differ within texts, between spans and after spans.
PARTS = ([1] * 9, [1] * 7 + [2] * 3, [3], image("A"), image("B", 8, 2), image("C", 1, 1), audio("D"), [4, 5, 6])
KINDS = [(kind, unified) for kind in ("attention", "hybrid", "swa") for unified in (True, False)] + [
    ("recurrent", True)
]


@dataclass
class Live:
    """A live slot, and the prompt that it computes."""

    slot: Slot
    prompt: Prompt


class MediaBench:
    """A cache over a fake memory that knows the spans of all prompts."""

    def __init__(self, kind: str = "attention", kv_unified: bool = True, n_cells: int = 400, n_slots: int = 5) -> None:
        n_cells = n_cells if kv_unified else 5 * n_cells
        self.memory = FakeContext(n_cells, n_slots, kind=kind, kv_unified=kv_unified)
        self.memory.take_media(part for part in PARTS if isinstance(part, MediaSpan))
        n_swa = self.memory.n_swa if kind == "swa" else 0
        facts = {"kind": kind, "n_swa": n_swa, "swa_full": self.memory.swa_full, "copies_cells": not kv_unified}
        self.cache = PrefixCache(self.memory, n_slots=n_slots, n_cells=n_cells, reuse=True, **facts)
        self.live: list[Live] = []

    def match(self, prompt: Prompt) -> Match:
        return self.cache.match(prompt.ids, "", prompt.layout)

    def start(self, parts, boundaries: bool = False) -> Live:
        """A live slot that begins with the cached rows of a prompt."""
        prompt = Prompt.join(parts)
        ends = tuple(Prompt.join(parts[:i]).num_rows for i in range(1, len(parts))) if boundaries else ()
        match = self.match(prompt)
        assert match.length == prompt.layout.round_down(match.length) < prompt.num_rows
        slot = self.cache.open(match)
        assert self.memory.seq_pos_max(slot.seq_id) == slot.layout.pos_max(slot.length)
        assert list(self.memory.history(slot.seq_id)) == list(prompt.ids[: slot.length])
        self.cache.announce(slot, prompt.ids, ends, layout=prompt.layout)
        live = Live(slot, prompt)
        self.live.append(live)
        return live

    def compute(self, live: Live, num_rows: int = 10**6) -> None:
        """Compute up to num_rows rows of a prompt, in chunks of one kind that stop at the places of checkpoints."""
        slot, layout = live.slot, live.prompt.layout
        end = min(live.prompt.num_rows, slot.length + num_rows)
        while slot.length < end:
            start = slot.length
            stop = layout.run_end(start, min(end, slot.next_place or end))
            self.decode(live, stop)
            self.cache.advance(slot, stop - start, live.prompt.ids)
            self.cache.note_decode()
        if slot.length == live.prompt.num_rows:
            self.cache.register(slot, live.prompt.ids)

    def decode(self, live: Live, stop: int) -> None:
        """Put the next rows of a prompt into the memory, up to an index."""
        for index in range(live.slot.length, stop):
            self.memory.add_cell(live.prompt.position(index), live.prompt.ids[index], live.slot.seq_id)

    def fork(self, live: Live) -> None:
        """A second sequence on the same prompt."""
        if live.slot.length == live.prompt.num_rows and len(self.live) < self.cache.n_slots - 1:
            self.live.append(Live(self.cache.fork(live.slot), live.prompt))

    def park(self, live: Live) -> None:
        self.live.remove(live)
        self.cache.park(live.slot, live.prompt.ids)

    def check(self) -> None:
        self.cache.check_integrity()
        assert self.memory.memory_kind == "recurrent" or self.cache.num_cells == len(self.memory.cells)
        for live in self.live:
            assert list(self.memory.history(live.slot.seq_id)) == list(live.prompt.ids[: live.slot.length])
            assert live.slot.layout.position(live.slot.length) == live.prompt.position(live.slot.length)


def with_small_thresholds(test):
    """The cache's thresholds, small enough for prompts of a few rows."""
    for module, values in (
        ("eviction", {"_MIN_FREED": 4, "_MIN_LEFT": 4}),
        ("lookup", {"_MIN_COPIED": 3}),
        ("checkpoints", {"_MIN_SAVED": 3}),
    ):
        test = patch.multiple(f"llamafast.cache.{module}", **values)(test)
    return test


INDICES = st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=5)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), INDICES, st.booleans()),
        st.tuples(st.just("compute"), st.integers(0, 9), st.sampled_from([1, 3, 7, 10**6, 10**6])),
        st.tuples(st.just("park"), st.integers(0, 9)),
        st.tuples(st.just("fork"), st.integers(0, 9)),
        st.tuples(st.just("make_room"), st.integers(1, 120)),
    ),
    min_size=4,
    max_size=24,
)


@with_small_thresholds
@settings(max_examples=120, deadline=None)
@given(OPERATIONS, st.sampled_from(KINDS), st.integers(2, 5))
def test_random_history_puts_each_row_at_its_position(operations, kind, n_slots):
    bench = MediaBench(*kind, n_slots=n_slots)
    for name, *values in operations:
        if name == "start":
            parts = [PARTS[i] for i in values[0]]
            if len(bench.live) < n_slots - 1 and bench.cache.make_room(Prompt.join(parts).num_rows + 2):
                bench.start(parts, values[1])
        elif name == "make_room":
            bench.cache.make_room(bench.cache.n_cells - bench.cache.num_live_cells() - values[0])
        elif bench.live:
            getattr(bench, name)(bench.live[values[0] % len(bench.live)], *values[1:])
        bench.check()
    for live in list(bench.live):
        bench.compute(live)
        bench.park(live)
        bench.check()


@with_small_thresholds
@settings(max_examples=60, deadline=None)
@given(INDICES, INDICES, st.sampled_from(KINDS))
def test_prompt_after_another_gets_the_whole_rows_that_both_have(first, second, kind):
    bench = MediaBench(*kind)
    live = bench.start([PARTS[i] for i in first], boundaries=True)
    bench.compute(live)
    bench.park(live)
    prompt = Prompt.join([PARTS[i] for i in second])
    num_equal = num_equal_ids(live.prompt.ids, prompt.ids[:-1])
    most = prompt.layout.round_down(num_equal)
    match = bench.match(prompt)
    if kind == ("attention", True):
        assert match.length == most
    assert match.length in {0, *(prompt.layout.round_down(length) for length in range(most + 1))}
    bench.compute(bench.start([PARTS[i] for i in second]))
    bench.check()


def computed(parts, kind: str = "attention", **settings) -> MediaBench:
    """A bench with one parked prompt."""
    bench = MediaBench(kind, **settings)
    live = bench.start(parts)
    bench.compute(live)
    bench.park(live)
    return bench


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_same_image_and_another_question_has_all_rows_of_the_image(kind):
    bench = computed([[1] * 40, image("A"), [7, 8]], kind)
    assert bench.match(Prompt.join([[1] * 40, image("A"), [9, 9]])).length == 46


def test_prompt_that_ends_in_an_image_computes_all_of_it_again():
    bench = computed([[1, 2], image("A")])
    assert bench.match(Prompt.join([[1, 2], image("A")])).length == 2


def test_images_in_another_order_are_not_found():
    bench = computed([image("A"), image("B", 8, 2), [7]])
    assert bench.match(Prompt.join([image("B", 8, 2), image("A"), [7]])).length == 0


def test_image_under_another_salt_is_not_found():
    prompt = Prompt.join([[1, 2], image("A"), [7]])
    assert computed([[1, 2], image("A"), [7]]).cache.match(prompt.ids, "tenant", prompt.layout).length == 0


@pytest.mark.parametrize(("kind", "length"), [("attention", 40), ("hybrid", 0)])
def test_park_within_an_image_keeps_the_rows_before_it(kind, length):
    bench = MediaBench(kind)
    live = bench.start([[1] * 40, image("A"), [7]])
    bench.compute(live, 43)
    bench.park(live)
    bench.check()
    assert bench.match(live.prompt).length == length


def test_fork_after_an_image_continues_at_the_same_position():
    bench = MediaBench()
    live = bench.start([[1, 2], image("A"), [7]])
    bench.compute(live)
    bench.fork(live)
    bench.check()


def test_take_over_after_an_image_removes_the_other_text():
    bench = computed([image("A"), [7] * 5], n_slots=1)
    live = bench.start([image("A"), [8] * 5])
    bench.check()
    assert (live.slot.seq_id, live.slot.length) == (0, 6)


def test_window_is_measured_in_positions():
    parts = [[1] * 40, image("A"), [7] * 2]  # the window begins at 37, and the end of the image needs it from 35 on
    bench = computed(parts, "swa")
    bench.cache.checkpoints.drop(Prompt.join(parts).ids, "", above=0)
    assert bench.match(Prompt.join([[1] * 40, image("A"), [8] * 9])).length == 0


def test_slot_within_an_image_is_not_forked_there():
    bench = MediaBench("hybrid")
    live = bench.start([image("A"), [7]])
    bench.compute(live, 4)
    assert bench.match(live.prompt).length == 0


def test_announced_image_is_waited_for_as_a_whole():
    bench = MediaBench()
    live = bench.start([[1, 2], image("A"), [7]])
    other = Prompt.join([[1, 2], image("A")])
    assert bench.cache.match_announced(other.ids, "", other.layout) == Match(2, live.slot)


def test_checkpoint_after_the_image_serves_another_question():
    bench = MediaBench("hybrid")
    live = bench.start([[1] * 40, image("A"), [3] * 40])
    assert live.slot.places == [85, 46]
    bench.compute(live)
    bench.cache.free(live.slot)
    bench.live.clear()
    bench.check()


def test_shift_with_media_is_refused():
    bench = MediaBench()
    live = bench.start([[1, 2], image("A"), [7]])
    bench.compute(live)
    with pytest.raises(AssertionError, match="media cannot move"):
        bench.cache.shift(live.slot, 1, 1)
