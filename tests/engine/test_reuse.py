"""The number of computed prompt tokens on every kind of memory, counted with fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamafast.engine.engine import EngineConfig
from llamafast.request import MissReason, PromptPlaces
from tests.engine.fakes import Collector, alone, encode, make_engine, make_request, scripted

KINDS = [("attention", True), ("swa", True), ("hybrid", True), ("recurrent", True)]
STREAMS = [("attention", False), ("swa", False), ("hybrid", False)]


def open_engine(kind, draw=None, **settings):
    settings = {"n_ctx": 4000, "n_seq_max": 16, "n_batch": 512, **settings}
    config = EngineConfig(n_seq_max=8)
    return make_engine(draw, config, kind=kind[0], kv_unified=kind[1], **settings)


def bounded(request_id, parts, **params):
    """A request for the joined parts, with a place after each part."""
    ends = tuple(len(encode("".join(parts[: i + 1]))) for i in range(len(parts) - 1))
    return replace(make_request(request_id, "".join(parts), **params), places=PromptPlaces.of(ends))


def computed_by(engine, *requests) -> int:
    before = engine.stats.computed_prompt_tokens
    Collector().run(engine, *requests)
    return engine.stats.computed_prompt_tokens - before


@pytest.mark.parametrize("kind", KINDS)
def test_simultaneous_requests_compute_their_prefix_once(kind):
    engine = open_engine(kind)
    requests = [make_request(str(i), "p" * 1500 + f"{i:<20}", max_tokens=3) for i in range(16)]
    collector = Collector().run(engine, *requests)
    assert engine.stats.computed_prompt_tokens <= 1500 + 16 * 24
    assert collector.text == {(str(i), 0): alone("p" * 1500 + f"{i:<20}", max_tokens=3) for i in range(16)}


@pytest.mark.parametrize("kind", [*KINDS, STREAMS[0], STREAMS[2]])
def test_same_prompt_again_computes_its_end_only(kind):
    engine = open_engine(kind, n_ctx=16 * 500)
    prompt = "".join(chr(97 + i % 26) for i in range(300))
    cold = Collector().run(engine, make_request("0", prompt, max_tokens=20))
    assert computed_by(engine, make_request("1", prompt, max_tokens=20)) == 1
    again = Collector().run(engine, make_request("2", prompt, max_tokens=20))
    assert again.text["2", 0] == cold.text["0", 0] == alone(prompt, max_tokens=20)


@pytest.mark.parametrize("kind", [*KINDS, *STREAMS])
def test_stopped_answer_is_reused_by_the_next_turn(kind):
    engine = open_engine(kind, scripted("a long answer"), n_ctx=16 * 500)
    engine.add(make_request("0", "q" * 60))
    text = "".join(output.text for _ in range(4) for output in engine.step())
    engine.abort("0")
    assert computed_by(engine, make_request("1", "q" * 60 + text + "another")) == 1 + len("another")


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_stopped_half_way_continues_from_its_computed_rows(kind):
    engine = open_engine(kind)
    prompt = "".join(chr(97 + i % 26) for i in range(1200))
    engine.add(make_request("0", prompt))
    engine.step()
    engine.abort("0")
    assert computed_by(engine, make_request("1", prompt, max_tokens=1)) == len(prompt) - 512


@pytest.mark.parametrize("kind", [*KINDS, *STREAMS])
def test_next_turn_computes_only_new_tokens(kind):
    engine = open_engine(kind, scripted("answer"), n_ctx=16 * 500)
    Collector().run(engine, make_request("0", "q" * 60))
    assert computed_by(engine, make_request("1", "q" * 60 + "answer" + "another")) == len("another")


@pytest.mark.parametrize("kind", KINDS)
def test_edited_turn_computes_what_follows_the_last_common_boundary(kind):
    engine = open_engine(kind)
    parts = ["s" * 100, "a" * 40, "b" * 40, "c" * 40]
    Collector().run(engine, bounded("0", parts, max_tokens=50, min_tokens=50))
    assert computed_by(engine, bounded("1", [*parts[:3], "x" * 40], max_tokens=2)) == 40
    assert computed_by(engine, bounded("2", [*parts[:2], "y" * 30], max_tokens=2)) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_request_that_parts_from_a_leader_midway_forks_there(kind):
    engine = open_engine(kind)
    engine.add(make_request("0", "p" * 900 + "0" * 600, max_tokens=3))
    engine.step()  # the first 512
    requests = [make_request(str(i), "p" * 900 + str(i) * 20, max_tokens=3) for i in (1, 2)]
    collector = Collector().run(engine, *requests)
    assert engine.stats.computed_prompt_tokens == 1500 + 2 * 20
    assert collector.usage["1"].cached_tokens == 900
    assert collector.text["2", 0] == alone("p" * 900 + "2" * 20, max_tokens=3)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_conversations_outlive_many_short_requests(kind):
    engine = open_engine(kind, scripted("ok"))
    texts = ["a" * 60, "b" * 60]
    num_computed = num_new = 0
    for turn in range(12):
        for i in range(2):
            new = f"turn {turn:>3} of {i} "
            texts[i] += new
            num_new += len(new) if turn else len(texts[i])
            num_computed += computed_by(engine, make_request(f"{turn}-{i}", texts[i]))
            texts[i] += "ok"
        for i in range(20):
            Collector().run(engine, make_request(f"{turn}-other-{i}", f"{i:>4}{turn:>4}" * 4, max_tokens=2))
    assert num_computed <= 1.1 * num_new


def test_salts_share_nothing():
    engine = open_engine(KINDS[0])
    requests = [replace(make_request(salt, "p" * 100, max_tokens=2), cache_salt=salt) for salt in ("a", "b", "b ")]
    assert [computed_by(engine, request) for request in requests] == [100, 100, 100]
    assert computed_by(engine, replace(requests[1], request_id="again")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_request_without_cache_neither_reads_nor_fills_it(kind):
    engine = open_engine(kind)
    private = replace(make_request("0", "p" * 100, max_tokens=2), use_cache=False)
    assert computed_by(engine, private) == 100
    assert engine.cache.num_cells == 0
    assert computed_by(engine, make_request("1", "p" * 100, max_tokens=2)) == 100
    assert computed_by(engine, replace(private, request_id="2")) == 100


def reasons(engine) -> dict[str, int]:
    return {reason: number for reason, number in engine.stats.prefix_misses.items() if number}


def test_miss_reason_tells_new_from_complete():
    engine = open_engine(KINDS[0])
    collector = Collector().run(engine, make_request("0", "p" * 100, max_tokens=2))
    collector.run(engine, make_request("1", "p" * 100, max_tokens=2))
    assert (collector.usage["0"].miss_reason, collector.usage["1"].miss_reason) == (MissReason.NEW, MissReason.NONE)
    assert reasons(engine) == {"new": 1, "none": 1}


def test_miss_reason_no_checkpoint():
    engine = open_engine(("hybrid", True))
    Collector().run(engine, make_request("0", "p" * 100, max_tokens=2))
    collector = Collector().run(engine, make_request("1", "p" * 50 + "x", max_tokens=2))
    assert collector.usage["1"].miss_reason is MissReason.NO_CHECKPOINT


def test_miss_reason_evicted():
    engine = open_engine(KINDS[0])
    Collector().run(engine, make_request("0", "p" * 100, max_tokens=2))
    engine.cache.evict()
    collector = Collector().run(engine, make_request("1", "p" * 100, max_tokens=2))
    assert collector.usage["1"].miss_reason is MissReason.EVICTED


def test_miss_reason_salt():
    engine = open_engine(KINDS[0])
    Collector().run(engine, make_request("0", "p" * 100, max_tokens=2))
    request = replace(make_request("1", "p" * 100, max_tokens=2), cache_salt="tenant")
    assert Collector().run(engine, request).usage["1"].miss_reason is MissReason.SALT


def test_miss_reason_off_for_a_private_request():
    engine = open_engine(KINDS[0])
    request = replace(make_request("0", "p" * 100, max_tokens=2), use_cache=False)
    assert Collector().run(engine, request).usage["0"].miss_reason is MissReason.OFF


def test_computed_tokens_count_what_a_preemption_repeats():
    engine = make_engine(scripted("a" * 200), n_ctx=64)
    Collector().run(engine, *[make_request(str(i), f"{i}234567", max_tokens=40) for i in range(3)])
    assert engine.stats.preemptions > 0
    assert engine.stats.computed_prompt_tokens > 3 * 7


@pytest.mark.parametrize(("places", "expected"), [(PromptPlaces(2, (5,), 7), ((2, 5), 7)), (None, ((), 0))])
def test_announced_prompt_has_the_boundaries_and_the_end_of_its_places(places, expected):
    engine = open_engine(KINDS[0])
    announced, announce = [], engine.cache.announce
    engine.cache.announce = lambda *args: announced.append(args[2:4]) or announce(*args)
    Collector().run(engine, replace(make_request("0", "p" * 10, max_tokens=2), places=places))
    assert announced == [expected]
