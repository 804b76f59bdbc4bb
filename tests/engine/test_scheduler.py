"""Scheduler invariants, on an engine over fakes: budget, order, fairness, packing, memory pressure, forks, prefixes."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.engine.config import EngineConfig
from llamafast.engine.seeds import choice_seed
from llamafast.request import FinishReason
from tests.engine.fakes import Collector, alone, make_engine, make_request, scripted

LONG = "a long text that never ends, at least not in this test; " * 4


def run_steps(engine, num_steps: int) -> Collector:
    collector = Collector()
    for _ in range(num_steps):
        collector.add(engine.step())
        engine.check_integrity()
    return collector


def test_schedule_nothing_to_do_returns_none():
    assert make_engine().scheduler.schedule() is None


def test_schedule_long_prompts_never_exceed_n_batch():
    engine = make_engine(n_ctx=400, n_batch=8)
    Collector().run(engine, *[make_request(str(i), "x" * 30 + str(i), max_tokens=5) for i in range(8)])
    assert max(sum(step.values()) for step in engine.runner.steps) == 8


def test_schedule_decodes_come_before_prompts():
    engine = make_engine(scripted(LONG), n_ctx=400, n_batch=8)
    engine.add(make_request("0", "abc"))
    engine.step()
    engine.add(make_request("1", "y" * 40))
    run_steps(engine, 4)
    assert engine.runner.steps[1:5] == [{0: 1, 1: 7}] * 4


def test_schedule_max_prefill_tokens_limits_prompts_only_in_steps_with_decodes():
    config = EngineConfig(n_seq_max=4, max_prefill_tokens=3)
    engine = make_engine(scripted(LONG), config, n_ctx=400, n_batch=8)
    engine.add(make_request("0", "abcdefgh"))
    engine.step()
    engine.add(make_request("1", "y" * 40))
    run_steps(engine, 2)
    assert engine.runner.steps == [{0: 8}, {0: 1, 1: 3}, {0: 1, 1: 3}]


def test_schedule_several_prompts_serves_the_shortest_first():
    engine = make_engine(n_ctx=400, n_batch=12)
    for i, length in enumerate([30, 20, 7]):
        engine.add(make_request(str(i), chr(97 + i) * length))
    engine.step()
    assert engine.runner.steps == [{1: 5, 2: 7}]


def test_schedule_more_requests_than_ids_start_in_order_of_arrival():
    engine = make_engine(n_ctx=400, n_batch=40)
    started = []
    for i in range(10):
        engine.add(make_request(str(i), f"{i} prompt", max_tokens=3))
    while engine.has_work:
        engine.step()
        # First tokens of one step are in the order of sequence ids.
        started += sorted({s.request_id for s in engine.scheduler.running} - set(started))
    assert started == [str(i) for i in range(10)]


def test_schedule_finished_ids_are_taken_again_lowest_first():
    engine = make_engine(scripted("ab", LONG), n_ctx=400, config=EngineConfig(n_seq_max=4, enable_prefix_cache=False))
    for i in range(3):
        engine.add(make_request(str(i), "abc", seed=min(i, 1)))
    run_steps(engine, 4)
    engine.add(make_request("3", "abc", seed=1))
    run_steps(engine, 2)
    assert engine.runner.steps[-1] == {0: 1, 1: 1, 2: 1}


def test_schedule_constant_arrivals_starve_no_request():
    engine = make_engine(n_ctx=400, n_batch=4)
    engine.add(make_request("old", "z" * 60, max_tokens=8))
    collector = Collector()
    for i in range(120):
        engine.add(make_request(str(i), "y", max_tokens=2))
        collector.add(engine.step())
        engine.check_integrity()
    assert "old" in collector.usage


def test_schedule_hybrid_steps_have_one_length():
    engine = make_engine(n_ctx=400, kind="hybrid")
    requests = [make_request(str(i), "p" * (3 + 5 * i) + str(i), max_tokens=9) for i in range(7)]
    collector = Collector().run(engine, *requests)
    assert all(len(set(step.values())) == 1 for step in engine.runner.steps)
    assert collector.text == {(str(i), 0): alone("p" * (3 + 5 * i) + str(i), max_tokens=9) for i in range(7)}


def test_schedule_hybrid_decodes_and_prompts_take_turns():
    engine = make_engine(scripted(LONG), n_ctx=400, kind="hybrid", n_batch=8)
    engine.add(make_request("0", "abc"))
    engine.step()
    engine.add(make_request("1", "y" * 40))
    run_steps(engine, 6)
    assert engine.runner.steps[1:] == [{0: 1}, {1: 8}] * 3


def test_schedule_hybrid_short_prompt_does_not_wait_for_a_long_one():
    engine = make_engine(scripted(LONG, ""), n_ctx=400, kind="hybrid", n_batch=8)
    engine.add(make_request("long", "y" * 100))
    engine.add(make_request("short", "abc", seed=1))
    assert "short" in run_steps(engine, 5).usage


def test_schedule_streams_have_equal_lengths_and_ascending_ids():
    engine = make_engine(n_ctx=400, kv_unified=False)
    requests = [make_request(str(i), "p" * (3 + 5 * i) + str(i), max_tokens=9) for i in range(7)]
    collector = Collector().run(engine, *requests)
    assert all(len(set(step.values())) == 1 and list(step) == sorted(step) for step in engine.runner.steps)
    assert collector.text == {(str(i), 0): alone("p" * (3 + 5 * i) + str(i), max_tokens=9) for i in range(7)}


def test_admit_full_memory_waits_instead_of_failing():
    engine = make_engine(scripted(LONG), n_ctx=64, n_batch=32)
    engine.add(make_request("0", "a" * 28, max_tokens=5))
    engine.add(make_request("1", "b" * 28, max_tokens=5))
    engine.add(make_request("2", "c" * 28, max_tokens=5))
    collector = Collector().run(engine)
    assert engine.runner.num_failures == 0
    assert all(len(text) == 5 for text in collector.text.values())


def test_relieve_full_memory_preempts_the_youngest_and_resumes_it():
    engine = make_engine(scripted(LONG), n_ctx=64)
    requests = [make_request(str(i), f"{i}234567", max_tokens=40) for i in range(3)]
    collector = Collector().run(engine, *requests)
    assert engine.stats.preemptions > 0
    assert set(collector.text.values()) == {LONG[:40]}
    assert list(collector.usage) == ["0", "1", "2"]  # the oldest is never preempted


def test_relieve_parked_prefixes_are_evicted_before_a_preemption():
    engine = make_engine(scripted(LONG), n_ctx=64, n_batch=64, config=EngineConfig(n_seq_max=4, max_cached_tokens=64))
    Collector().run(engine, make_request("0", "a" * 30, max_tokens=2))
    assert engine.cache.num_parked == 1
    Collector().run(engine, make_request("1", "b" * 30, max_tokens=30))
    assert engine.stats.preemptions == 0
    assert engine.stats.prefix_evictions == 1


def test_relieve_sole_sequence_ends_with_length():
    engine = make_engine(scripted(LONG), n_ctx=64)
    engine.add(make_request("0", "abc"))
    engine.step()
    engine.runner.failures = [1]
    collector = Collector().run(engine)
    assert collector.finished["0", 0].finish_reason is FinishReason.LENGTH


def test_relieve_sole_prompt_of_forks_ends_them_all():
    engine = make_engine(scripted(LONG), n_ctx=64)
    engine.runner.failures = [1]
    collector = Collector().run(engine, make_request("0", "abc", n=3))
    assert [output.finish_reason for output in collector.finished.values()] == [FinishReason.LENGTH] * 3


def test_relieve_sixteen_long_requests_all_finish():
    engine = make_engine(n_ctx=128, n_seq_max=16, n_batch=32)
    prompts = [f"{i:02} is a prompt" for i in range(16)]
    collector = Collector().run(engine, *[make_request(p, p, max_tokens=60) for p in prompts])
    assert engine.stats.preemptions > 0
    assert collector.text == {(p, 0): alone(p, max_tokens=60) for p in prompts}


def test_update_decode_that_failed_changes_nothing():
    engine = make_engine(scripted(LONG), n_ctx=400)
    engine.add(make_request("0", "abc", max_tokens=10))
    engine.add(make_request("1", "abd", max_tokens=10))
    engine.step()
    before = [(s.slot.length, len(s.token_ids)) for s in engine.scheduler.running]
    engine.scheduler.schedule()
    assert [(s.slot.length, len(s.token_ids)) for s in engine.scheduler.running] == before


def test_fork_n_choices_prefill_once():
    engine = make_engine(n_ctx=400)
    collector = Collector().run(engine, make_request("0", "a prompt", n=4, max_tokens=9))
    assert engine.runner.steps[0] == {0: 8}
    assert collector.text == {("0", i): alone("a prompt", seed=choice_seed(0, i), max_tokens=9) for i in range(4)}
    assert collector.usage["0"].completion_tokens == sum(map(len, collector.token_ids.values()))


def test_fork_hybrid_copies_whole_sequences():
    engine = make_engine(n_ctx=400, kind="hybrid")
    collector = Collector().run(engine, make_request("0", "a prompt", n=4, max_tokens=9))
    assert collector.text == {("0", i): alone("a prompt", seed=choice_seed(0, i), max_tokens=9) for i in range(4)}


def test_fork_waits_until_all_ids_are_free():
    engine = make_engine(scripted("abcdef"), n_ctx=400)
    engine.add(make_request("0", "abc"))
    engine.add(make_request("1", "abd", n=4, logit_bias=()))
    engine.add(make_request("2", "abe"))
    engine.runner.draw = scripted("abcdef", "x", "y", "z")
    engine.step()
    assert [s.request_id for s in engine.scheduler.running] == ["0"]  # "2" does not overtake "1"
    collector = Collector().run(engine)
    assert len(collector.text) == 6


def test_fork_that_ends_at_once_needs_no_id():
    engine = make_engine(scripted("", "b", "", ""), n_ctx=400)
    collector = Collector().run(engine, make_request("0", "abc", n=4))
    assert [collector.text["0", i] for i in range(4)] == ["", "b", "", ""]


def test_best_of_gives_the_best_by_mean_logprob():
    engine = make_engine(scripted("aaa", "b", "cc"), n_ctx=400)
    logprobs = {97: -3.0, 98: -1.0, 99: -2.0}
    drawn = []
    step = engine.runner.step

    def remember(plan):
        drawn[:] = step(plan)
        return [list(run) for run in drawn]

    engine.runner.step = remember
    engine.runner.logprobs = lambda i, k: (logprobs.get(drawn[i][k] - 3, 0.0), [])
    collector = Collector().run(engine, make_request("0", "abc", n=2, best_of=3))
    assert collector.text == {("0", 0): "b", ("0", 1): "cc"}
    assert collector.usage["0"].completion_tokens == 9  # all generated tokens, end tokens included


def test_finish_ends_one_choice_as_a_stop_and_keeps_its_prefix():
    engine = make_engine(scripted(LONG, LONG), n_ctx=400)
    engine.add(make_request("0", "abc", n=2, max_tokens=12))
    collector = run_steps(engine, 5)
    for request_id, index in (("0", 0), ("0", 7), ("none", 0)):
        engine.finish(request_id, index)
    collector.run(engine)
    assert [collector.finished["0", i].finish_reason for i in (0, 1)] == [FinishReason.STOP, FinishReason.LENGTH]
    assert [len(collector.text["0", i]) for i in (0, 1)] == [5, 12]
    assert collector.usage["0"].completion_tokens == 17


def test_finish_keeps_the_prefix_for_the_next_turn():
    engine = make_engine(scripted(LONG), n_ctx=400)
    engine.add(make_request("0", "abc"))
    text = run_steps(engine, 5).text["0", 0]
    engine.finish("0", 0)
    collector = Collector().run(engine, make_request("1", "abc" + text + "?", max_tokens=1))
    assert collector.usage["1"].cached_tokens == 7


def test_prefix_second_turn_computes_only_new_tokens():
    engine = make_engine(scripted("answer"), n_ctx=400, n_batch=64)
    Collector().run(engine, make_request("0", "a question"))
    collector = Collector().run(engine, make_request("1", "a questionanswer another"))
    assert collector.usage["1"].cached_tokens == len("a questionanswer")
    assert engine.runner.steps[-7] == {1: len(" another")}


def test_prefix_same_prompt_twice_computes_its_last_token():
    engine = make_engine(n_ctx=400, n_batch=64)
    Collector().run(engine, make_request("0", "a question"))
    collector = Collector().run(engine, make_request("1", "a question"))
    assert collector.usage["1"].cached_tokens == len("a question") - 1
    assert collector.text["1", 0] == alone("a question")


def test_prefix_live_sequence_shares_with_a_newcomer():
    engine = make_engine(scripted(LONG), n_ctx=400, n_batch=64)
    engine.add(make_request("0", "the same beginning, one"))
    engine.step()
    engine.add(make_request("1", "the same beginning, two"))
    engine.step()
    assert engine.runner.steps[1] == {0: 1, 1: len("two")}


def test_prefix_burst_computes_the_common_part_once():
    engine = make_engine(n_ctx=1000, n_seq_max=8, n_batch=64)
    system = "s" * 200
    collector = Collector().run(engine, *[make_request(str(i), f"{system}{i}", max_tokens=4) for i in range(6)])
    num_computed = sum(sum(step.values()) for step in engine.runner.steps)
    assert num_computed < 200 + 6 * 8
    assert [collector.usage[str(i)].cached_tokens for i in range(6)] == [0, 200, 200, 200, 200, 200]


def test_finish_before_the_first_token_leaves_the_other_choices_running():
    engine = make_engine(scripted("one", "two"))
    engine.add(make_request("0", n=2))
    engine.finish("0", 0)
    assert Collector().run(engine).text == {("0", 0): "one", ("0", 1): "two"}


def test_prefix_burst_continues_when_its_leader_is_aborted():
    engine = make_engine(n_ctx=1000, n_batch=16)
    for i in range(3):
        engine.add(make_request(str(i), "s" * 100 + str(i), max_tokens=4))
    engine.step()
    assert engine.scheduler.num_active == 1
    engine.abort("0")
    collector = Collector().run(engine)
    assert collector.text["2", 0] == alone("s" * 100 + "2", max_tokens=4)


def test_prefix_cache_off_keeps_nothing():
    engine = make_engine(n_ctx=400, config=EngineConfig(n_seq_max=4, enable_prefix_cache=False))
    Collector().run(engine, make_request("0", "a question"))
    collector = Collector().run(engine, make_request("1", "a question"))
    assert collector.usage["1"].cached_tokens == 0
    assert engine.cache.num_cells == 0


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from(["", "system prompt, ", "system text that is longer than thirty-two tokens, "]),
            st.text("ab", max_size=12),
            st.integers(1, 3),
            st.integers(0, 30),
            st.integers(-1, 1),
        ),
        st.tuples(st.just("step")),
        st.tuples(st.just("abort"), st.integers(0, 12)),
        st.tuples(st.just("fail"), st.just(1)),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(
    OPERATIONS,
    st.sampled_from([("attention", True), ("hybrid", True), ("attention", False), ("recurrent", True), ("swa", True)]),
    st.sampled_from([100, 160, 400]),
    st.sampled_from([0, None, 20.0]),
)
def test_engine_random_history_gives_what_each_request_gives_alone(operations, kind, n_ctx, max_step_ms):
    engine = make_engine(
        kind=kind[0], kv_unified=kind[1], n_ctx=n_ctx if kind[1] else 4 * n_ctx, n_batch=16, n_seq_max=4
    )
    engine.scheduler.planner.pacer.max_step_ms = max_step_ms
    engine.scheduler.planner.clock = count(step=0.004).__next__
    collector, expected, aborted = Collector(), {}, set()
    for operation in operations:
        if operation[0] == "add":
            request_id = str(len(expected))
            prompt = operation[1] + operation[2] + "."
            request = make_request(request_id, prompt, n=operation[3], max_tokens=operation[4], priority=operation[5])
            engine.validate(request)
            engine.add(request)
            expected[request_id] = [
                alone(prompt, choice_seed(0, i), operation[4], engine.max_seq_len) for i in range(operation[3])
            ]
        elif operation[0] == "abort":
            engine.abort(str(operation[1]))
            aborted.add(str(operation[1]))
        else:
            if operation[0] == "fail" and engine.scheduler.num_active > 1:  # a single sequence without room would end
                engine.runner.failures = [operation[1]]
            collector.add(engine.step())
        engine.check_integrity()
        assert kind[0] == "recurrent" or engine.cache.num_cells == len(engine.context.cells)
    collector.run(engine)
    for request_id, texts in expected.items():
        for i, text in enumerate(texts):
            if request_id in aborted:
                assert text.startswith(collector.text[request_id, i])
            else:
                assert collector.text[request_id, i] == text
    assert engine.cache.num_live_cells() == 0
    assert set(collector.usage) == set(expected)
