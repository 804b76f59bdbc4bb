"""Steps with prompts and decode rows: duration, order, priority, and no starvation."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.engine.engine import EngineConfig
from llamafast.engine.pacing import StepPacer
from tests.engine.fakes import Collector, make_engine, make_request, scripted

LONG = "a text without an end " * 40


def timed_engine(max_step_ms, *, row_ms=1.0, token_ms=0.1, fixed_ms=10.0, draw=None, **context):
    """An engine with steps of fixed_ms plus row_ms or token_ms per row. `times` of its runner: ms of each step."""
    config = EngineConfig(n_seq_max=8, max_step_ms=max_step_ms)
    engine = make_engine(draw or scripted(LONG), config, **{"n_seq_max": 8, "n_ctx": 4000, "n_batch": 512, **context})
    now_ms, times, step = 0.0, [], engine.runner.step

    def timed(plan):
        nonlocal now_ms
        runs = step(plan)
        counts = engine.runner.steps[-1].values()
        times.append(fixed_ms + sum(row_ms if count == 1 else token_ms * count for count in counts))
        now_ms += times[-1]
        return runs

    engine.runner.step, engine.runner.times = timed, times
    engine.scheduler.planner.pacer.max_step_ms = max_step_ms
    engine.scheduler.planner.clock = lambda: now_ms / 1000
    return engine


def stream_and_prompt(engine, prompt_length):
    """Times of the steps with a long prompt that arrives after four sequences have generated for ten steps."""
    for i in range(4):
        engine.add(make_request(str(i), f"{i}abc"))
    for _ in range(10):
        engine.step()
    engine.add(make_request("long", "p" * prompt_length, max_tokens=1))
    num_before = len(engine.runner.times)
    while "long" in engine.scheduler.requests:
        engine.step()
        engine.check_integrity()
    return engine.runner.times[num_before:]


def test_pacer_without_target_takes_all():
    assert StepPacer(0, 512).budget(8) == 512


@pytest.mark.parametrize("max_step_ms", [None, 1.0])
def test_pacer_hopeless_target_leaves_a_floor(max_step_ms):
    pacer = StepPacer(max_step_ms, 512)
    for _ in range(20):
        pacer.note_decode(8, 5.0)
        pacer.note_prompts(pacer.budget(8), 1000.0, 8)
    assert pacer.budget(8) == 8


def test_pacer_max_tokens_below_the_floor_wins():
    assert StepPacer(None, 3).budget(8) == 3


def test_pacer_one_slow_step_changes_nothing():
    pacer = StepPacer(20.0, 512)
    pacer.note_decode(8, 10.0)
    for _ in range(10):
        pacer.note_prompts(100, 20.0, 8)
    pacer.note_prompts(100, 900.0, 8)
    assert pacer.budget(8) == 100


def test_pacer_tiny_chunk_is_not_a_sample():
    pacer = StepPacer(20.0, 512)
    pacer.note_decode(8, 10.0)
    for _ in range(5):
        pacer.note_prompts(100, 20.0, 8)
    for _ in range(5):
        pacer.note_prompts(1, 15.0, 8)
    assert pacer.budget(8) == 100


def test_pacer_many_prompts_get_more_of_the_time():
    pacer = StepPacer(None, 512)
    for _ in range(3):
        pacer.note_decode(8, 10.0)
        pacer.note_prompts(200, 30.0, 8)
    assert (pacer.budget(8, 1), pacer.budget(8, 32)) == (60, 400)


def test_pacer_slower_prompts_shrink_the_budget():
    pacer = StepPacer(20.0, 512)
    pacer.note_decode(8, 10.0)
    for token_ms in (0.1, 0.2, 0.5):
        for _ in range(5):
            pacer.note_prompts(50, 10.0 + 50 * token_ms, 8)
    assert pacer.budget(8) == 20


def test_pacer_small_chunks_that_waste_give_way_to_large_ones():
    pacer = StepPacer(None, 512, takes_turns=True)
    for _ in range(20):
        num_tokens = pacer.budget(8)
        pacer.note_decode(8, 5.0)
        pacer.note_prompts(num_tokens, 5.0 + num_tokens * (2.0 if num_tokens < 64 else 0.25), 8)
    assert pacer.budget(8) == 64


def test_pacer_small_chunks_that_waste_are_tried_again_in_time():
    pacer = StepPacer(None, 512, takes_turns=True)
    budgets = []
    for _ in range(600):
        budgets.append(pacer.budget(8))
        pacer.note_decode(8, 5.0)
        pacer.note_prompts(budgets[-1], 5.0 + budgets[-1] * (2.0 if budgets[-1] < 64 else 0.25), 8)
    assert 2 <= sum(number < 64 for number in budgets) <= 6


def test_pacer_dissimilar_decodes_are_measured_but_never_twice_in_a_row():
    pacer = StepPacer(None, 512)
    pacer.note_decode(2, 5.0)
    pacer.note_prompts(8, 9.0, 32)
    assert pacer.must_see_decode(32)
    pacer.note_decode(3, 5.0)  # as if the others had ended
    assert not pacer.must_see_decode(32)


@pytest.mark.parametrize(("max_step_ms", "most_ms"), [(None, 1.6 * 14), (30.0, 30), (50.0, 50)])
def test_long_prompt_keeps_steps_at_the_target(max_step_ms, most_ms):
    times = stream_and_prompt(timed_engine(max_step_ms), 2000)
    assert max(times) <= most_ms * 1.05
    assert sum(times) < len(times) * most_ms
    assert max(times[-6:-1]) > 0.85 * most_ms  # and the time is used


def test_long_prompt_without_target_comes_at_once():
    assert len(stream_and_prompt(timed_engine(0), 2000)) == 4


@pytest.mark.parametrize("context", [{"kind": "hybrid"}, {"kv_unified": False, "n_ctx": 32000}])
def test_long_prompt_of_equal_lengths_takes_turns_within_the_target(context):
    times = stream_and_prompt(timed_engine(40.0, **context), 2000)
    gaps = [first + second for first, second in pairwise(times)]
    assert max(gaps) <= 40 * 1.1
    assert max(gaps[-6:-1]) > 0.85 * 40


def test_prompts_short_one_overtakes_a_long_one():
    engine = timed_engine(30.0)
    engine.add(make_request("stream", "abc"))
    engine.step()
    engine.add(make_request("long", "p" * 2000, max_tokens=1))
    for _ in range(4):
        engine.step()
    engine.add(make_request("short", "q" * 20, max_tokens=1))
    collector = Collector()
    for _ in range(2):
        collector.add(engine.step())
    assert list(collector.usage) == ["short"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(20, 200),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from([{"kind": "attention"}, {"kind": "hybrid"}, {"kv_unified": False, "n_ctx": 32000}]),
)
def test_prompts_arriving_without_end_starve_no_other_prompt(length, later, context):
    engine = timed_engine(0, draw=scripted(""), n_batch=16, **context)
    engine.add(make_request("early", "e" * length, max_tokens=1))
    # In the worst case, all other sequence ids have prompts that are shorter by one token and arrived before it is due.
    num_steps = (8 * length // 16 + 2) if context.get("kind") == "attention" else 3 * 8 * length
    for step in range(num_steps):
        for i, other in enumerate(later):
            engine.add(make_request(f"{step}-{i}", chr(97 + i) * other, max_tokens=1))
        engine.step()
        engine.check_integrity()
        if "early" not in engine.scheduler.requests:
            break
    assert "early" not in engine.scheduler.requests


def test_priority_lower_value_is_admitted_first():
    engine = make_engine(scripted("ab"), n_ctx=400, n_seq_max=1, config=EngineConfig(n_seq_max=1))
    priorities = {"a": 1, "b": 0, "c": -1, "d": 1, "e": 0, "f": -1}
    collector = Collector()
    for request_id, priority in priorities.items():
        engine.add(make_request(request_id, request_id * 5, priority=priority))
    collector.run(engine)
    assert list(collector.usage) == ["c", "f", "b", "e", "a", "d"]


def test_priority_urgent_prompt_goes_before_a_shorter_one():
    engine = make_engine(scripted(""), n_ctx=400, n_batch=8)
    engine.add(make_request("short", "s" * 10, max_tokens=1))
    engine.add(make_request("urgent", "u" * 30, max_tokens=1, priority=-1))
    assert list(Collector().run(engine).usage) == ["urgent", "short"]


def test_priority_least_urgent_is_preempted_and_resumes():
    engine = make_engine(scripted(LONG), n_ctx=64)
    requests = [make_request(str(i), f"{i}234567", max_tokens=40, priority=-i) for i in range(3)]
    collector = Collector().run(engine, *requests)
    assert engine.stats.preemptions > 0
    assert list(collector.usage) == ["2", "1", "0"]
    assert set(collector.text.values()) == {LONG[:40]}
