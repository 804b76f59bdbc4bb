"""check_request: each limit, and the field in its error."""

from __future__ import annotations

import math
from array import array

import pytest

from llamafast.engine.validation import Limits, check_request
from llamafast.errors import ContextLengthError, InvalidRequestError
from llamafast.request import Request, SamplingParams

LIMITS = Limits(n_vocab=100, n_seq_max=4, max_seq_len=10)


def check(prompt=(5, 6), **params) -> None:
    check_request(Request("0", array("i", prompt), SamplingParams(**params)), LIMITS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("n", 0),
        ("n", 5),
        ("best_of", 0),
        ("best_of", 5),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("logprobs", -1),
        ("logprobs", 101),
        ("seed", 2**64),
        ("stop", ("a", "")),
        ("stop", ("a" * 5000,)),
        ("stop", ("a",) * 5000),
        ("stop_token_ids", (100,)),
        ("stop_token_ids", (-1,)),
        ("logit_bias", ((100, 1.0),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((1, math.nan),)),
        ("typical_p", 0.0),
        ("typical_p", 1.5),
        ("top_n_sigma", -2.0),
        ("top_n_sigma", math.nan),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.1),
        ("dynatemp_range", -1.0),
        ("dynatemp_range", math.inf),
        ("dynatemp_exponent", -1.0),
        ("mirostat", 3),
        ("mirostat_tau", -1.0),
        ("mirostat_eta", math.nan),
        ("penalty_last_n", -2),
        ("dry_multiplier", -0.5),
        ("dry_base", 0.5),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2),
        ("dry_sequence_breakers", ("",)),
        ("dry_sequence_breakers", ("x" * 41,)),
        ("dry_sequence_breakers", ("\ud800",)),
        ("dry_sequence_breakers", ("x",) * 33),
        ("bad_words", ((),)),
        ("bad_words", ((1, 100),)),
        ("bad_words", ((1,) * 300,)),
        ("bad_words", ((1,),) * 5000),
        ("allowed_token_ids", ()),
        ("allowed_token_ids", (1, 100)),
    ],
)
def test_check_value_out_of_range_names_the_field(name, value):
    with pytest.raises(InvalidRequestError) as caught:
        check(**{name: value})
    assert caught.value.param == name
    assert caught.value.status == 400


def test_check_extremes_are_taken():
    check(
        temperature=0.0, top_p=1.0, top_k=-1, min_p=1.0, frequency_penalty=-2.0, n=4, best_of=4, max_tokens=0, seed=-1
    )
    check(
        max_tokens=10**12,
        logprobs=100,
        stop=tuple(map(str, range(1000))),
        logit_bias=((0, -100.0), (98, -math.inf), (99, 100.0)),
        stop_token_ids=(0, 99),
        seed=2**63,
    )
    check(
        typical_p=0.01, top_n_sigma=-1.0, xtc_probability=1.0, xtc_threshold=0.0, dynatemp_range=5.0, mirostat=2,
        mirostat_tau=0.0, penalty_last_n=0, dry_multiplier=2.0, dry_base=1.0, dry_allowed_length=0,
        dry_sequence_breakers=(), bad_words=((0,), (1, 99)), allowed_token_ids=(0, 99),
    )  # fmt: skip
    check(prompt=range(9))
    check(prompt=range(10), max_tokens=0)


def test_check_best_of_below_n_names_best_of():
    with pytest.raises(InvalidRequestError) as caught:
        check(n=3, best_of=2)
    assert caught.value.param == "best_of"


def test_check_min_tokens_above_max_tokens_names_min_tokens():
    with pytest.raises(InvalidRequestError) as caught:
        check(min_tokens=3, max_tokens=2)
    assert caught.value.param == "min_tokens"


def test_check_empty_prompt_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        check(prompt=())
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("token_id", [-1, 100, 2**31 - 1])
def test_check_prompt_token_outside_the_vocabulary_is_refused(token_id):
    with pytest.raises(InvalidRequestError) as caught:
        check(prompt=(1, token_id))
    assert caught.value.param == "prompt"


def test_check_prompt_that_leaves_no_room_is_too_long():
    with pytest.raises(ContextLengthError) as caught:
        check(prompt=range(10))
    assert caught.value.code == "context_length_exceeded"
    assert "10 tokens" in str(caught.value)


def test_check_least_output_that_does_not_fit_is_too_long():
    with pytest.raises(ContextLengthError):
        check(prompt=range(5), min_tokens=6)


def test_check_model_without_generation_is_refused():
    limits = Limits(n_vocab=100, n_seq_max=4, max_seq_len=10, generates=False)
    with pytest.raises(InvalidRequestError):
        check_request(Request("0", array("i", [1])), limits)
