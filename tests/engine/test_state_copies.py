"""Copies of states for the disk cache: in slices between steps, or as a whole when no sequence runs."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest

from llamafast.engine import state_copies
from tests import tiny_models
from tests.engine.test_batch_equality import assert_equal_or_near_tie
from tests.engine.test_disk_cache import open_engine, prompt, request, run

pytestmark = pytest.mark.usefixtures("native")
SLICE_BYTES = 16_384


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_models.write_attention_model(folder / "attention.gguf")
    tiny_models.write_hybrid_model(folder / "hybrid.gguf")
    return {name: folder / f"{name}.gguf" for name in ("attention", "hybrid")}


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(state_copies, "SLICE_BYTES", SLICE_BYTES)
    monkeypatch.setattr(state_copies, "_FIRST_SLICE", 4)


class Recorder:
    """A context that records the number of bytes copied out of it."""

    def __init__(self, engine) -> None:
        self._context = engine.context
        self.sizes: list[int] = []
        engine.disk.copies._context = self

    def state_seq_size(self, seq_id):
        return self._context.state_seq_size(seq_id)

    def state_seq_get(self, seq_id, partial_only=False):
        state = self._context.state_seq_get(seq_id, partial_only)
        self.sizes.append(len(state))
        return state


def until_copies_wait(engine, new) -> array:
    """Add a request and step until its state waits to be copied. Returns the tokens of all outputs."""
    token_ids = array("i")
    engine.add(new)
    while not engine.disk.copies:
        for output in engine.step():
            token_ids.extend(output.token_ids)
    return token_ids


def test_step_copies_no_more_than_a_slice(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        recorder = Recorder(engine)
        engine.add(request("1", prompt(400)))
        counts = [0]
        while engine.has_work:
            engine.step()
            engine.check_integrity()
            counts.append(len(recorder.sizes))
    assert max(after - before for before, after in pairwise(counts)) == 1
    assert len(recorder.sizes) > 5
    assert max(recorder.sizes) <= 1.1 * SLICE_BYTES


def test_neighbour_gets_its_tokens_between_two_slices(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        engine.add(request("neighbour", prompt(20, start=7), max_tokens=60))
        until_copies_wait(engine, request("1", prompt(400)))
        while engine.disk.copies:
            assert [output.request_id for output in engine.step()] == ["neighbour"]
        assert engine.scheduler.has_work


@pytest.mark.parametrize(("num_common", "num_cached"), [(400, 400), (250, 250), (3, 0)])
def test_state_in_slices_serves_after_a_restart(paths, tmp_path, num_common, num_cached):
    with open_engine(paths["attention"], tmp_path) as engine:
        run(engine, request("1", prompt(400)))
    turn = request("2", prompt(num_common) + prompt(30, start=3))
    with open_engine(paths["attention"]) as engine:
        cold, _ = run(engine, turn)
    with open_engine(paths["attention"], tmp_path) as engine:
        warm, usage = run(engine, turn)
    assert usage["2"].cached_tokens == num_cached
    assert_equal_or_near_tie(warm["2"], cold["2"])


def test_next_turn_takes_over_the_copied_slices(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        recorder = Recorder(engine)
        spoken = prompt(300) + until_copies_wait(engine, request("1", prompt(300)))
        engine.step()
        run(engine, request("2", spoken + prompt(50, start=3), max_tokens=2))
        (slot,) = engine.cache._parked
        assert sum(recorder.sizes) <= 1.1 * engine.context.state_seq_size(slot.seq_id)


def test_state_evicted_during_its_copy_is_stored_in_part(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        until_copies_wait(engine, request("1", prompt(400)))
        for _ in range(3):
            engine.step()
        while engine.cache.evict():
            pass
        run(engine)
        assert not engine.disk.copies
    with open_engine(paths["attention"], tmp_path) as engine:
        _, usage = run(engine, request("2", prompt(400)))
    assert 0 < usage["2"].cached_tokens < 399


def test_state_larger_than_the_folder_is_not_copied_to_the_end(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path, max_bytes=60_000) as engine:
        recorder = Recorder(engine)
        run(engine, request("1", prompt(400)))
        assert (len(recorder.sizes), engine.stats.disk_cache.dropped) == (1, 1)


def test_close_copies_waiting_states(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        until_copies_wait(engine, request("1", prompt(400)))
    with open_engine(paths["attention"], tmp_path) as engine:
        _, usage = run(engine, request("2", prompt(400)))
    assert usage["2"].cached_tokens == 399


def test_dead_engine_copies_nothing(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        recorder = Recorder(engine)
        until_copies_wait(engine, request("1", prompt(400)))
        num_copied = len(recorder.sizes)
        engine.death = "a fatal error"
        assert not engine.has_work
        engine.step()
    assert len(recorder.sizes) == num_copied


def test_generate_waits_for_no_copy(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path) as engine:
        until_copies_wait(engine, request("1", prompt(400)))
        outputs = list(engine.generate(list(prompt(20, start=5)), request("", prompt(1)).params))
        assert outputs[-1].usage.completion_tokens == 12


def test_large_state_that_is_copied_as_a_whole_waits_until_nothing_runs(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(state_copies, "MAX_BYTES_AT_ONCE", 0)
    with open_engine(paths["hybrid"], tmp_path) as engine:
        recorder = Recorder(engine)
        engine.add(request("neighbour", prompt(20, start=7), max_tokens=60))
        until_copies_wait(engine, request("1", prompt(200), ends=(190,)))
        while engine.scheduler.has_work:
            engine.step()
            assert recorder.sizes == [] or not engine.scheduler.has_work
        run(engine)
        assert not engine.disk.copies
        assert recorder.sizes


def test_large_state_of_a_place_that_is_passed_is_dropped_while_others_run(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(state_copies, "MAX_BYTES_AT_ONCE", 0)
    with open_engine(paths["hybrid"], tmp_path) as engine:
        engine.add(request("neighbour", prompt(20, start=7), max_tokens=60))
        engine.step()
        engine.add(request("1", prompt(200), ends=(190,)))
        while "1" in engine.scheduler.requests:
            engine.step()
        assert engine.stats.disk_cache.dropped == 1


def test_disk_cache_without_a_prefix_cache_stores_whole_states(paths, tmp_path):
    with open_engine(paths["attention"], tmp_path, enable_prefix_cache=False) as engine:
        run(engine, request("1", prompt(200)))
    with open_engine(paths["attention"], tmp_path) as engine:
        _, usage = run(engine, request("2", prompt(200)))
    assert usage["2"].cached_tokens == 199


def test_engine_without_a_spare_sequence_leaves_slices_to_others(paths, tmp_path):
    for settings in ({}, {"enable_prefix_cache": False}, {}):
        with open_engine(paths["attention"], tmp_path, min_tokens=1000 if settings else 16, **settings) as engine:
            _, usage = run(engine, request("1", prompt(200)))
            assert engine.stats.disk_cache.damaged == 0
    assert usage["1"].cached_tokens == 199
