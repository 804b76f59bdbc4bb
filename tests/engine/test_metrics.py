"""Histogram, and the counters of the engine."""

from __future__ import annotations

from llamafast.engine.metrics import EngineStats, Histogram
from tests.engine.fakes import Collector, make_engine, make_request, scripted


def test_histogram_values_fall_at_or_below_their_bound():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    histogram.observe(2.0, times=3)
    assert histogram.counts == [2, 4, 1]
    assert (histogram.count, histogram.sum) == (7, 18.0)


def test_stats_kv_usage_without_cells_is_zero():
    assert EngineStats().kv_usage == 0.0


def test_stats_count_tokens_requests_and_latencies():
    engine = make_engine(scripted("hello", "hi"), n_ctx=400)
    Collector().run(engine, make_request("0", "abc"), make_request("1", "abd", seed=1), make_request("2", max_tokens=3))
    stats = engine.stats
    assert (stats.prompt_tokens, stats.generation_tokens) == (11, 12)
    assert stats.finished == {"stop": 2, "length": 1, "abort": 0, "error": 0}
    assert stats.time_to_first_token.count == stats.e2e_latency.count == stats.queue_time.count == 3
    assert stats.inter_token_latency.count == 12 - 3
    assert stats.request_generation_tokens.sum == 12
    assert stats.steps == len(engine.runner.steps)
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_cells == engine.cache.num_cells


def test_stats_prefix_hits_count_tokens():
    engine = make_engine(n_ctx=400)
    Collector().run(engine, make_request("0", "abcdef"))
    Collector().run(engine, make_request("1", "abcdef"))
    assert (engine.stats.prefix_queries, engine.stats.prefix_hits) == (12, 5)


def test_stats_gauges_show_running_and_waiting():
    engine = make_engine(scripted("hello"), n_ctx=400, n_seq_max=2)
    for i in range(5):
        engine.add(make_request(str(i), f"{i}bc"))
    engine.step()
    assert (engine.stats.num_running, engine.stats.num_waiting) == (2, 3)
    assert engine.stats.num_cells == 6
