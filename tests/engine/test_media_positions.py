"""Requests with media on a fake memory that checks each row's position: outputs equal those of a cold run."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafast.cache.prompt import MediaSpan, Prompt
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.errors import InvalidRequestError
from llamafast.request import FinishReason, MediaContent, PromptPlaces, Request, SamplingParams
from tests.cache.test_prompt import audio, image
from tests.engine.fakes import FIRST, Collector, FakeBatch, FakeSupply, encode, make_engine, scripted

PARTS = (encode("s" * 33), encode("s" * 30 + "tt"), encode("ab"), image("A", 9, 4), image("B", 16, 4), audio("C"))
KINDS = [
    (kind, unified, is_whole)
    for kind, unified in [
        *((kind, unified) for kind in ("attention", "hybrid", "swa") for unified in (True, False)),
        ("recurrent", True),
    ]
    for is_whole in (False, True)
]


def open_engine(
    kind: str = "attention", kv_unified: bool = True, is_whole: bool = False, draw=None, **settings
) -> Engine:
    """An engine that takes media. Its steps have 7 rows, so that most spans need several steps.

    is_whole: a span takes one step; steps have 16 rows.
    """
    context = {
        "n_ctx": 220 if kv_unified else 1200,
        "n_batch": 16 if is_whole else 7,
        "n_seq_max": 6,
        "kind": kind,
        "kv_unified": kv_unified,
    }
    engine = make_engine(draw, EngineConfig(n_seq_max=4, checkpoint_every=16, **settings), **context)
    engine.context.take_media(part for part in PARTS if isinstance(part, MediaSpan))
    batch = FakeBatch(engine.context.n_batch)
    batch.media = engine.context.media
    engine.scheduler.attach_media(FakeSupply(batch, is_whole=is_whole), max_whole_rows=batch.n_tokens_max)
    engine.limits = replace(engine.limits, takes_media=True)
    return engine


def media_request(request_id: str, parts, n: int = 1, max_tokens: int = 6, **fields) -> Request:
    prompt = Prompt.join(parts)
    params = SamplingParams(seed=0, n=n, max_tokens=max_tokens)
    contents = tuple(MediaContent(span.digest) for span in prompt.layout.media)
    return Request(request_id, prompt.ids, params, media=prompt.layout.media, contents=contents, **fields)


def cold(request: Request) -> dict[tuple[str, int], str]:
    """The output of a request in an engine of its own."""
    engine = open_engine(enable_prefix_cache=False)
    return Collector().run(engine, request).text


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=4),
            st.sampled_from([1, 1, 2]),
            st.integers(1, 8),
            st.booleans(),
        ),
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("abort"), st.integers(0, 9)),
        st.tuples(st.just("evict"), st.integers(0, 60)),
        st.tuples(st.just("fail"), st.just(1)),
    ),
    min_size=4,
    max_size=16,
)


@patch.multiple("llamafast.cache.eviction", _MIN_FREED=4, _MIN_LEFT=4)
@settings(max_examples=50, deadline=None)
@given(OPERATIONS, st.sampled_from(KINDS))
def test_random_requests_with_media_give_what_a_cold_run_gives(operations, kind):
    engine, collector = open_engine(*kind), Collector()
    requests, aborted = [], set()
    for name, *values in operations:
        if name == "add":
            parts = [PARTS[i] for i in values[0]]
            ends = tuple(Prompt.join(parts[:i]).num_rows for i in range(1, len(parts))) if values[3] else ()
            requests.append(media_request(str(len(requests)), parts, *values[1:3], places=PromptPlaces.of(ends)))
            engine.validate(requests[-1])
            engine.add(requests[-1])
        elif name == "abort":
            engine.abort(str(values[0]))
            aborted.add(str(values[0]))
        elif name == "evict":
            engine.cache.make_room(engine.cache.n_cells - engine.cache.num_cells + values[0])
        elif name == "fail" and engine.scheduler.num_active > 1:
            engine.runner.failures = values
        for _ in range(values[0] if name == "step" else 1):
            collector.add(engine.step())
            engine.check_integrity()
    engine.runner.failures = []
    collector.run(engine)
    for request in requests:
        for key, text in cold(request).items():
            ours = collector.text.get(key, "")
            assert text.startswith(ours) if request.request_id in aborted else ours == text


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_second_question_about_an_image_computes_the_question_alone(kind):
    engine = open_engine(kind)
    Collector().run(engine, media_request("0", [PARTS[0], PARTS[3], encode("first")]))
    second = media_request("1", [PARTS[0], PARTS[3], encode("second")])
    collector = Collector().run(engine, second)
    assert collector.usage["1"].cached_tokens == 33 + 9
    assert collector.text == cold(second)


@pytest.mark.parametrize(("kind", "num_cached"), [("attention", 42 + 2), ("hybrid", 33 + 9)])
def test_restart_loads_an_image_from_the_disk(kind, num_cached, tmp_path, monkeypatch):
    monkeypatch.setattr("llamafast.engine.loading.state_key", lambda *facts: b"key")
    monkeypatch.setattr("llamafast.engine.state_copies._FIRST_SLICE", 35)
    monkeypatch.setattr("llamafast.engine.state_copies.SLICE_BYTES", 300)
    requests = [media_request(str(i), [PARTS[0], PARTS[3], encode(f"??{i}")]) for i in range(2)]
    for request in requests:
        with open_engine(kind) as engine:
            engine.open_disk_cache(str(tmp_path), max_bytes=10**6, min_tokens=8)
            boundaries = (33 + 9,) if kind == "hybrid" else ()
            collector = Collector().run(engine, replace(request, places=PromptPlaces.of(boundaries)))
    assert collector.usage["1"].cached_tokens == num_cached
    assert collector.text == cold(requests[1])


def test_copy_that_ends_early_ends_after_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafast.engine.loading.state_key", lambda *facts: b"key")
    monkeypatch.setattr("llamafast.engine.state_copies._FIRST_SLICE", 35)  # ends within the image
    monkeypatch.setattr("llamafast.engine.state_copies.SLICE_BYTES", 1)
    request = media_request("0", [PARTS[0], PARTS[3], encode("??")])
    with open_engine() as engine:
        engine.open_disk_cache(str(tmp_path), max_bytes=10**6, min_tokens=8)
        engine.add(request)
        while not engine.disk.copies:  # the same step copies the first slice
            engine.step()
        engine.cache.evict()
        Collector().run(engine)
    with open_engine() as engine:
        engine.open_disk_cache(str(tmp_path), max_bytes=10**6, min_tokens=8)
        assert Collector().run(engine, request).usage["0"].cached_tokens == 33 + 9


def test_abort_within_an_image_stores_no_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafast.engine.loading.state_key", lambda *facts: b"key")
    with open_engine(enable_prefix_cache=False) as engine:
        engine.open_disk_cache(str(tmp_path), max_bytes=10**6, min_tokens=8)
        engine.add(media_request("0", [PARTS[0], PARTS[4]]))
        while not engine.scheduler.prefilling or engine.scheduler.prefilling[0].slot.length < 40:
            engine.step()
        engine.abort("0")
        Collector().run(engine)
    assert engine.stats.disk_cache.writes == 0


def test_restart_with_another_image_loads_no_row_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafast.engine.loading.state_key", lambda *facts: b"key")
    for i, part in enumerate((PARTS[3], PARTS[4])):
        with open_engine() as engine:
            engine.open_disk_cache(str(tmp_path), max_bytes=10**6, min_tokens=8)
            collector = Collector().run(engine, media_request(str(i), [PARTS[0], part, encode("??")]))
    assert collector.usage["1"].cached_tokens == 33


def test_decode_rows_continue_at_the_position_after_the_image():
    engine = open_engine(draw=scripted("abc"))
    Collector().run(engine, media_request("0", [PARTS[3], encode("?")], max_tokens=3))
    (slot,) = engine.cache.slots()
    assert (slot.length, engine.context.seq_pos_max(slot.seq_id)) == (9 + 1 + 2, 4 + 1 + 2 - 1)


def test_samplers_are_primed_with_the_text_alone():
    engine = open_engine()
    engine.add(media_request("0", [encode("ab"), PARTS[3], encode("?")]))
    (sequence,) = engine.scheduler.waiting
    assert sequence.sampler.primed == encode("ab?")


def test_context_shift_leaves_out_a_request_with_media():
    engine = open_engine(draw=lambda history, sampler: FIRST + 97, context_shift=True, max_seq_len=32)
    collector = Collector().run(engine, media_request("0", [PARTS[3], encode("?")], max_tokens=100))
    assert (collector.finished["0", 0].finish_reason, engine.stats.context_shifts) == (FinishReason.LENGTH, 0)
    assert len(collector.text["0", 0]) == 32 - 10


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"media": (image("B", 9, 4),)}, "media"),
        ({"media": ()}, "prompt"),
        ({"n_keep": 3}, "n_keep"),
        ({"params": SamplingParams(prompt_logprobs=1)}, "prompt_logprobs"),
    ],
)
def test_validate_refuses_what_media_cannot_have(changes, field):
    with pytest.raises(InvalidRequestError) as caught:
        open_engine().validate(replace(media_request("0", [PARTS[3], encode("?")]), **changes))
    assert caught.value.param == field


def test_validate_refuses_media_where_the_model_takes_none():
    engine = open_engine()
    engine.limits = replace(engine.limits, takes_media=False)
    with pytest.raises(InvalidRequestError, match="takes no images"):
        engine.validate(media_request("0", [PARTS[3], encode("?")]))
