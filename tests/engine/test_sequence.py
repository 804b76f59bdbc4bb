"""The outputs of a sequence: text, stop strings, stop tokens, limits, logprobs."""

from __future__ import annotations

import pytest

from llamafast.engine.seeds import choice_seed
from llamafast.request import FinishReason
from tests.engine.fakes import EOS, FIRST, Collector, encode, make_engine, make_request, scripted

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def complete(text: str, **params):
    """(text, last output, logprobs, deltas) of a completion for a model that generates `text` and then the end."""
    engine = make_engine(scripted(text), n_ctx=400)
    collector, deltas = Collector(), []
    engine.add(make_request("0", "abc", **params))
    while engine.has_work:
        outputs = engine.step()
        deltas += [output.text for output in outputs]
        collector.add(outputs)
    key = ("0", 0)
    return collector.text[key], collector.finished[key], collector.logprobs[key], deltas


def test_advance_end_token_stops_without_text():
    text, last, _, _ = complete("hello")
    assert (text, last.finish_reason, last.stop_reason) == ("hello", STOP, None)
    assert last.token_ids == [EOS]


def test_advance_max_tokens_ends_with_length():
    text, last, _, _ = complete("hello", max_tokens=3)
    assert (text, last.finish_reason) == ("hel", LENGTH)
    assert last.usage.completion_tokens == 3


def test_advance_full_context_ends_with_length():
    engine = make_engine(scripted("x" * 400), n_ctx=64)
    collector = Collector().run(engine, make_request("0", "abc"))
    assert collector.finished["0", 0].finish_reason is LENGTH
    assert len(collector.token_ids["0", 0]) == 61


def test_advance_max_tokens_zero_computes_nothing():
    engine = make_engine()
    collector = Collector().run(engine, make_request("0", "abc", max_tokens=0, n=2))
    assert collector.text == {("0", 0): "", ("0", 1): ""}
    assert collector.finished["0", 1].finish_reason is LENGTH
    assert (collector.usage["0"].prompt_tokens, collector.usage["0"].completion_tokens) == (3, 0)
    assert engine.runner.steps == []


@pytest.mark.parametrize(
    ("stops", "expected", "reason"),
    [
        (("STOP",), "some text ", "STOP"),
        (("nothing",), "some text STOP and more", None),
        (("t S", "STOP"), "some tex", "t S"),
        (("more!", "re"), "some text STOP and mo", "re"),
        (tuple(f"stop {i}" for i in range(1000)), "some text STOP and more", None),
    ],
)
def test_advance_stop_string_is_cut_and_named(stops, expected, reason):
    text, last, _, deltas = complete("some text STOP and more", stop=stops)
    assert (text, last.finish_reason, last.stop_reason) == (expected, STOP, reason)
    assert "".join(deltas) == expected


def test_advance_stop_string_begun_is_held_back():
    _, _, _, deltas = complete("a STx", stop=("STOP",))
    assert deltas == ["a", " ", "", "", "STx", ""]


def test_advance_stop_string_begun_at_the_end_is_released():
    assert complete("a ST", stop=("STOP",))[0] == "a ST"
    assert complete("a STOP", stop=("STOP",), max_tokens=4)[0] == "a ST"


def test_advance_include_stop_keeps_the_string():
    text, last, _, _ = complete("a STOP b", stop=("STOP",), include_stop=True)
    assert (text, last.stop_reason) == ("a STOP", "STOP")


def test_advance_stop_token_is_named():
    text, last, _, _ = complete("abc", stop_token_ids=(FIRST + ord("c"),))
    assert (text, last.finish_reason, last.stop_reason) == ("ab", STOP, FIRST + ord("c"))


def test_advance_stop_token_included_writes_its_text():
    assert complete("abc", stop_token_ids=(FIRST + ord("c"),), include_stop=True)[0] == "abc"


def test_advance_min_tokens_ignores_stop_strings():
    text, last, _, _ = complete("xSTOPxSTOP", stop=("STOP",), min_tokens=6)
    assert (text, last.stop_reason) == ("xSTOPx", "STOP")


def test_advance_min_tokens_bans_ends_in_the_sampler():
    engine = make_engine()
    engine.add(make_request("0", "abc", min_tokens=5, stop_token_ids=(7,)))
    settings = engine.scheduler.waiting[0].sampler.settings
    assert settings["min_tokens"] == 5
    assert set(settings["banned_ids"]) == {EOS, 7}


def test_advance_ignore_eos_runs_to_the_limit():
    engine = make_engine(scripted("ab"))
    collector = Collector().run(engine, make_request("0", "abc", ignore_eos=True, max_tokens=5, logit_bias=((9, 1.0),)))
    assert collector.token_ids["0", 0] == [*encode("ab"), EOS, EOS, EOS]
    assert collector.text["0", 0] == "ab"


def test_advance_ignore_eos_biases_the_end_away():
    engine = make_engine()
    engine.add(make_request("0", "abc", ignore_eos=True, logit_bias=((9, 1.0),)))
    assert engine.scheduler.waiting[0].sampler.settings["logit_bias"] == ((9, 1.0), (EOS, float("-inf")))


def test_advance_utf8_split_over_tokens_comes_whole():
    text = "h\u00e9\u20ac\U0001f600".encode().decode("latin-1")
    result, _, _, deltas = complete(text)
    assert result == "h\u00e9\u20ac\U0001f600"
    assert deltas == ["h", "", "\u00e9", "", "", "\u20ac", "", "", "", "\U0001f600", ""]


def test_advance_character_unfinished_at_the_end_is_replaced():
    assert complete("a\xe2\x82")[0] == "a\ufffd"
    assert complete("a\xe2\x82\xac", max_tokens=2)[0] == "a\ufffd"


def test_advance_choices_have_their_own_seeds():
    engine = make_engine()
    engine.add(make_request("0", "abc", n=3, seed=7))
    first = engine.scheduler.waiting[0]
    assert [s.sampler.settings["seed"] for s in (first, *first.forks)] == [choice_seed(7, i) for i in range(3)]


def test_advance_no_seed_differs_from_request_to_request():
    engine = make_engine()
    engine.add(make_request("0", "abc", seed=None))
    engine.add(make_request("1", "abc", seed=None))
    assert len({s.sampler.settings["seed"] for s in engine.scheduler.waiting}) == 2


def test_advance_penalties_count_the_prompt():
    engine = make_engine()
    engine.add(make_request("0", "abc", presence_penalty=1.0))
    assert engine.scheduler.waiting[0].sampler.primed == encode("abc")


def test_logprobs_off_gives_none():
    engine = make_engine(scripted("ab"))
    engine.add(make_request("0", "abc"))
    assert engine.step()[0].logprobs is None


def test_logprobs_carry_bytes_offsets_and_the_best():
    _, _, entries, _ = complete("a\xc3\xa9b", logprobs=2)
    assert [entry.token_bytes for entry in entries] == [b"a", b"\xc3", b"\xa9", b"b"]
    assert [entry.text_offset for entry in entries] == [0, 1, 1, 2]
    assert entries[0].top == ((FIRST, -0.5, b"\x00"), (EOS, -2.0, b"<1>"))
    assert entries[0].logprob == -0.5


def test_logprobs_come_with_the_first_character_of_their_text():
    engine = make_engine(scripted("a STx"), n_ctx=400)
    engine.add(make_request("0", "abc", logprobs=0, stop=("STOP",)))
    steps = [engine.step()[0] for _ in range(6)]
    assert [output.text for output in steps] == ["a", " ", "", "", "STx", ""]
    assert [len(output.logprobs) for output in steps] == [1, 1, 0, 0, 3, 0]


def test_logprobs_of_a_removed_stop_string_are_dropped():
    text, _, entries, _ = complete("a STOP", logprobs=0, stop=("STOP",))
    assert b"".join(entry.token_bytes for entry in entries).decode() == text == "a "


def test_logprobs_of_an_included_stop_string_stay():
    text, _, entries, _ = complete("a STOP", logprobs=0, stop=("STOP",), include_stop=True)
    assert b"".join(entry.token_bytes for entry in entries).decode() == text == "a STOP"


def test_logprobs_best_of_without_them_are_not_given_out():
    engine = make_engine(scripted("aaa", "b", "cc"), n_ctx=400)
    engine.add(make_request("0", "abc", n=1, best_of=3))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.logprobs for output in outputs] == [None]


def test_finish_abort_gives_the_text_held_back():
    engine = make_engine(scripted("a STOP"), n_ctx=400)
    engine.add(make_request("0", "abc", logprobs=0, stop=("STOP",)))
    outputs = [engine.step()[0] for _ in range(4)]
    engine.abort("0")
    outputs += engine.step()
    assert "".join(output.text for output in outputs) == "a ST"
    assert sum(len(output.logprobs) for output in outputs) == 4
    assert outputs[-1].finish_reason is FinishReason.ABORT
