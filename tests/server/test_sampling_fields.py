"""Sampling fields of both APIs: the engine's settings, aliases of other servers, defaults, and errors."""

from __future__ import annotations

import math

import pytest

from llamafast.errors import InvalidRequestError

PLAIN = {
    "temperature": 0.5, "dynatemp_range": 0.25, "dynatemp_exponent": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.1,
    "typical_p": 0.8, "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2, "mirostat": 2,
    "mirostat_tau": 4.0, "mirostat_eta": 0.2, "frequency_penalty": 0.2, "presence_penalty": 0.3,
    "repetition_penalty": 1.1, "penalty_last_n": 64, "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
    "dry_penalty_last_n": 100, "min_tokens": 1, "ignore_eos": True, "seed": 3, "n": 2,
}  # fmt: skip


def params_of(response, server):
    assert response.status_code == 200, response.text
    return server.engine.requests[-1].params


def refusal(response) -> str:
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"]


@pytest.mark.parametrize("api", ["chat", "complete"])
def test_sampling_fields_reach_the_engine_under_their_names(server, api):
    params = params_of(getattr(server, api)(**PLAIN), server)
    assert {name: getattr(params, name) for name in PLAIN} == PLAIN


def test_sampling_lists_reach_the_engine_as_tuples(server):
    fields = {"dry_sequence_breakers": ["\n", "x"], "allowed_token_ids": [1, 2], "stop_token_ids": [3], "stop": ["q"]}
    params = params_of(server.complete(**fields), server)
    assert {name: list(getattr(params, name)) for name in fields} == fields


def test_sampling_silent_request_has_openai_defaults(server):
    params = params_of(server.complete(), server)
    assert (params.temperature, params.top_p, params.top_k, params.allowed_token_ids) == (1.0, 1.0, 0, None)


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
@pytest.mark.parametrize("api", ["chat", "complete"])
def test_sampling_seed_that_peers_take_for_a_random_one_is_none(make_server, api, seed):
    server = make_server(sampling={"seed": 7})
    assert params_of(getattr(server, api)(seed=seed), server).seed is None


@pytest.mark.parametrize("seed", [0, -2, 2**32 - 2, 2**32, 2**63])
def test_sampling_seed_of_any_other_number_is_that_number(server, seed):
    assert params_of(server.complete(seed=seed), server).seed == seed


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("typ_p", "typical_p", 0.5),
        ("repeat_penalty", "repetition_penalty", 1.3),
        ("repeat_last_n", "penalty_last_n", 9),
    ],
)
def test_sampling_alias_means_the_same_setting(server, alias, name, value):
    assert getattr(params_of(server.complete(**{alias: value}), server), name) == value
    assert getattr(params_of(server.complete(**{alias: value, name: value}), server), name) == value


def test_sampling_alias_that_differs_from_its_name_is_refused(server):
    assert refusal(server.complete(repeat_penalty=1.1, repetition_penalty=1.2)) == "repeat_penalty"


def test_sampling_alias_of_wrong_type_is_named_as_written(server):
    assert refusal(server.complete(typ_p="much")) == "typ_p"


@pytest.mark.parametrize("api", ["chat", "complete"])
def test_sampling_alias_that_the_engine_refuses_is_named_as_written(server, api):
    server.engine.refuse = lambda request: InvalidRequestError("too low", param="typical_p")
    assert refusal(getattr(server, api)(typ_p=-1.0)) == "typ_p"


def test_sampling_defaults_of_the_model_stand_where_the_request_is_silent(make_server):
    server = make_server(sampling={"temperature": 0.6, "top_k": 20})
    params = params_of(server.complete(top_k=0), server)
    assert (params.temperature, params.top_k, params.top_p) == (0.6, 0, 1.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"7": -100, "97": 1.5}, ((7, -100.0), (97, 1.5))),
        ({"a": 2, " the": False}, ((97, 2.0), (299, -math.inf))),
        ([[7, 1], ["7", -0.5], [" the", False]], ((7, 1.0), (55, -0.5), (299, -math.inf))),
        ([], ()),
    ],
)
def test_logit_bias_takes_ids_and_texts_of_one_token(server, given, expected):
    assert params_of(server.complete(logit_bias=given), server).logit_bias == expected


@pytest.mark.parametrize(
    "given", [{"ab": 1}, {"": 1}, {"7": True}, {"7": "1"}, [["ab", 1]], [[7]], [[7, 1, 2]], [[1.5, 1]], [7], "7"]
)
def test_logit_bias_that_names_no_token_is_refused(server, given):
    assert refusal(server.complete(logit_bias=given)).startswith("logit_bias")


def test_logit_bias_refusal_says_which_text(server):
    assert "'ab'" in server.complete(logit_bias={"ab": 1}).json()["error"]["message"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("the", ((116, 104, 101), (299,))),
        (" the", ((116, 104, 101), (299,))),
        ("ab", ((97, 98),)),  # with a space it is the space and the same tokens
    ],
)
def test_bad_words_are_banned_with_and_without_a_space(server, word, expected):
    assert params_of(server.complete(bad_words=[word]), server).bad_words == expected


@pytest.mark.parametrize("words", [[""], [" "], [7], "the"])
def test_bad_words_without_a_text_are_refused(server, words):
    assert refusal(server.complete(bad_words=words)).startswith("bad_words")


@pytest.mark.parametrize("field", ["samplers", "min_keep", "n_probs"])
def test_sampling_field_that_cannot_be_honoured_is_refused(server, field):
    assert refusal(server.complete(**{field: ["top_k"] if field == "samplers" else 5})) == field


def test_openapi_documents_the_sampling_fields(server):
    schemas = server.get("/openapi.json").json()["components"]["schemas"]
    for name in ("ChatBody", "CompletionBody"):
        assert {*PLAIN, "bad_words", "allowed_token_ids", "prompt_logprobs"} <= set(schemas[name]["properties"])
