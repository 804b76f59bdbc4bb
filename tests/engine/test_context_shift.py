"""Context shift: dropped and kept tokens, effects on other sequences, refused settings."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import replace

import pytest

from llamafast.engine.engine import EngineConfig
from llamafast.engine.seeds import choice_seed
from llamafast.errors import ConfigError, ContextLengthError, InvalidRequestError
from llamafast.request import FinishReason, PromptPlaces, Request, SamplingParams
from tests.engine.fakes import FIRST, Collector, alone, encode, make_engine, make_request, scripted

LONG = "x" * 100


def endless(history, sampler):
    """A letter that depends on the whole history. It is never the end token."""
    return FIRST + ord("a") + zlib.crc32(repr(history).encode()) % 26


def open_engine(draw=None, max_seq_len=32, **context):
    context = {"n_ctx": 200, "n_seq_max": 6, **context}
    return make_engine(draw, EngineConfig(n_seq_max=4, max_seq_len=max_seq_len, context_shift=True), **context)


def test_full_context_output_continues_to_its_own_end():
    engine = open_engine(scripted(LONG))
    collector = Collector().run(engine, make_request("0", "hello", max_tokens=100))
    assert collector.text["0", 0] == LONG
    assert collector.finished["0", 0].finish_reason is FinishReason.LENGTH
    assert collector.usage["0"].completion_tokens == 100
    assert engine.stats.context_shifts == 5
    assert engine.stats.computed_prompt_tokens == 5, "the moved tokens were computed again"


def test_full_context_drops_half_after_the_first_message():
    engine = open_engine(lambda history, sampler: FIRST + len(history))
    request = replace(make_request("0", "system" + "question", max_tokens=30), places=PromptPlaces.of((6, 10)))
    lengths = [token_id - FIRST for token_id in Collector().run(engine, request).token_ids["0", 0]]
    assert lengths[:19] == [*range(14, 32), 6 + 13]


def test_full_context_output_depends_on_the_kept_tokens():
    engine = open_engine()
    prompt = "system prompt and a question"
    for seed in range(8):
        request = replace(make_request(str(seed), prompt, seed=seed, max_tokens=80), places=PromptPlaces.of((13,)))
        assert Collector().run(engine, request).text[str(seed), 0] == alone(prompt, seed, 80, 32, num_kept=13)


@pytest.mark.parametrize(("n_keep", "num_kept"), [(0, 0), (5, 5), (-1, 11), (99, 11)])
def test_n_keep_says_how_much_of_the_prompt_stays(n_keep, num_kept):
    engine = open_engine()
    request = replace(
        make_request("0", "hello world", seed=3, max_tokens=80), n_keep=n_keep, places=PromptPlaces.of((7,))
    )
    assert Collector().run(engine, request).text["0", 0] == alone("hello world", 3, 80, 32, num_kept=num_kept)


def test_bos_of_a_prompt_stays():
    engine = open_engine(lambda history, sampler: FIRST + history[0])
    request = Request("0", array("i", [engine.tokenizer.bos_id, *encode("hello")]), SamplingParams(max_tokens=80))
    assert set(Collector().run(engine, request).token_ids["0", 0]) == {FIRST + engine.tokenizer.bos_id}


def test_n_keep_without_room_for_the_rest_is_refused():
    request = replace(make_request("0", "x" * 29), n_keep=-1)
    with pytest.raises(InvalidRequestError, match="n_keep keeps 29 tokens; at most 28 can be kept") as error:
        open_engine().validate(request)
    assert error.value.param == "n_keep"


def test_prompt_without_room_is_refused():
    with pytest.raises(ContextLengthError):
        open_engine().validate(make_request("0", "x" * 32))


def test_output_without_a_limit_ends_after_a_context_of_tokens():
    collector = Collector().run(open_engine(scripted(LONG)), make_request("0", "x" * 31))
    assert collector.usage["0"].completion_tokens == 32


def test_same_prompt_later_gets_what_it_gets_alone():
    engine = open_engine(endless)
    request = replace(make_request("0", "hello world", max_tokens=60), places=PromptPlaces.of((6,)))
    first = Collector().run(engine, request)
    again = Collector().run(engine, request)
    assert again.usage["0"].cached_tokens == 6
    assert again.text == first.text


def test_first_message_of_a_shifted_sequence_is_reused():
    engine = open_engine(scripted(LONG))
    first = replace(make_request("0", "a system prompt; hello", max_tokens=60), places=PromptPlaces.of((16,)))
    collector = Collector().run(engine, first)
    collector.run(engine, make_request("1", "a system prompt; good day", max_tokens=2))
    assert collector.usage["1"].cached_tokens == 16


def test_cells_that_others_hold_are_computed_again():
    engine = open_engine()
    prompt = "x" * 29
    requests = [make_request(str(seed), prompt, seed=seed, max_tokens=40) for seed in (3, 4, 5)]
    collector = Collector().run(engine, *requests, make_request("many", prompt, seed=6, n=3, max_tokens=40))
    assert engine.stats.computed_prompt_tokens > 29 + 3
    assert collector.text == {
        **{(str(seed), 0): alone(prompt, seed, 40, 32, num_kept=0) for seed in (3, 4, 5)},
        **{("many", i): alone(prompt, choice_seed(6, i), 40, 32, num_kept=0) for i in range(3)},
    }


def test_preempted_sequences_shift_and_resume():
    engine = open_engine(endless, n_ctx=70)
    requests = [make_request(str(i), f"{i} is a prompt", max_tokens=70) for i in range(4)]
    together = Collector().run(engine, *requests)
    assert engine.stats.preemptions > 0
    for request in requests:
        alone = Collector().run(open_engine(endless), request)
        assert together.text[request.request_id, 0] == alone.text[request.request_id, 0]


def test_stop_string_across_a_shift_is_found():
    text = "x" * 26 + "the end" + "y" * 50
    collector = Collector().run(open_engine(scripted(text)), make_request("0", "hi", max_tokens=70, stop=("the end",)))
    assert collector.text["0", 0] == "x" * 26


def test_logprobs_and_best_of_count_all_tokens():
    engine = open_engine(scripted(LONG, LONG))
    collector = Collector().run(engine, make_request("0", "hi", max_tokens=70, logprobs=1, best_of=2))
    assert len(collector.logprobs["0", 0]) == 70
    assert collector.usage["0"].completion_tokens == 140


@pytest.mark.parametrize("kind", ["hybrid", "recurrent", "swa"])
def test_memory_that_cannot_shift_is_refused(kind):
    with pytest.raises(ConfigError, match=f"context_shift: the {kind} memory"):
        open_engine(kind=kind, swa_full=True)


def test_context_too_short_to_shift_is_refused():
    with pytest.raises(ConfigError, match="too short"):
        open_engine(max_seq_len=7)
