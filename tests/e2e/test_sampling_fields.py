"""Sampling fields against the real server: each takes effect, and a wrong value is a 400 under the client's name."""

from __future__ import annotations

import pytest

from llamafast._core import Model

from .conftest import MODELS, post, refused

pytestmark = pytest.mark.usefixtures("next_request_is_answered")

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def tokenizer():
    return Model(str(MODELS / "tiny-qwen35-f16.gguf"), vocab_only=True)


def text(server, **fields):
    answer = post(server, "completions", **{"prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def test_greedy_text_begins_with_paris(server):
    assert text(server).startswith(" Paris.")


@pytest.mark.parametrize(
    "fields",
    [
        {"bad_words": ["Paris"]},
        {"bad_words": [" Paris"]},
        {"logit_bias": {" Paris": False}},
        {"logit_bias": [[" Paris", -100]]},
        {"logit_bias": {" Paris": -100}},
    ],
)
def test_banned_word_does_not_come(server, fields):
    assert "Paris" not in text(server, **fields)


def test_bad_words_of_several_tokens_are_banned_as_a_whole(server):
    assert "is the largest" in text(server)
    assert "is the largest" not in text(server, bad_words=["is the largest"])


def test_logit_bias_by_text_and_by_id_are_one(server, tokenizer):
    (token_id,) = tokenizer.tokenize(" Madrid", False, False)
    by_text = text(server, logit_bias={" Madrid": 100}, max_tokens=1)
    assert by_text == text(server, logit_bias={str(token_id): 100}, max_tokens=1) == " Madrid"


def test_allowed_token_ids_are_the_only_ones_drawn(server, tokenizer):
    allowed = tokenizer.tokenize(" Rome Madrid", False, False)
    said = text(server, allowed_token_ids=allowed, temperature=1.5, seed=1, max_tokens=20)
    assert set(tokenizer.tokenize(said, False, False)) <= set(allowed)


def test_min_tokens_holds_against_the_end(server, tokenizer):
    body = {
        "prompt": PROMPT,
        "temperature": 0,
        "max_tokens": 40,
        "min_tokens": 30,
        "stop_token_ids": [tokenizer.eos_id],
    }
    assert post(server, "completions", **body).json()["usage"]["completion_tokens"] >= 30


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"typ_p": 0.0}, "typ_p"),
        ({"typical_p": 1.5}, "typical_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"repeat_last_n": 2**40}, "repeat_last_n"),
        ({"top_n_sigma": -3.0}, "top_n_sigma"),
        ({"xtc_probability": 2.0}, "xtc_probability"),
        ({"dry_base": 0.5, "dry_multiplier": 1.0}, "dry_base"),
        ({"dry_sequence_breakers": ["x" * 10_000]}, "dry_sequence_breakers"),
        ({"mirostat": 3}, "mirostat"),
        ({"mirostat": 1.5}, "mirostat"),
        ({"dynatemp_range": -1.0}, "dynatemp_range"),
        ({"bad_words": ["x"] * 100_000}, "bad_words"),
        ({"bad_words": ["x" * 1_000_000]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**9]}, "allowed_token_ids"),
        ({"logit_bias": {"several tokens at once": 1}}, "logit_bias"),
        ({"logit_bias": {"Paris": 101}}, "logit_bias"),
        ({"logit_bias": {"9999999999": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"seed": 2**70}, "seed"),
        ({"top_k": 2**70}, "top_k"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ],
)
def test_wrong_value_gets_400_naming_the_clients_field(server, fields, param):
    assert refused(post(server, "completions", **{"prompt": PROMPT, "max_tokens": 2, **fields}), param)


EVERYTHING = {
    "temperature": 0.7, "dynatemp_range": 0.3, "dynatemp_exponent": 1.2, "top_k": 50, "top_p": 0.95, "min_p": 0.01,
    "typ_p": 0.95, "top_n_sigma": 3.0, "xtc_probability": 0.3, "xtc_threshold": 0.1, "frequency_penalty": 0.1,
    "presence_penalty": 0.1, "repeat_penalty": 1.1, "repeat_last_n": 64, "dry_multiplier": 0.8, "dry_base": 1.75,
    "dry_allowed_length": 2, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n", "."], "bad_words": ["Rome"],
    "logit_bias": {"7": 1.0}, "min_tokens": 3, "seed": 5, "n": 3,
}  # fmt: skip


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_all_settings_together_give_equal_texts_for_equal_seeds(server, mirostat):
    body = {**EVERYTHING, "mirostat": mirostat, "prompt": PROMPT, "max_tokens": 24}
    first, second = (post(server, "completions", **body) for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.json()["choices"] == second.json()["choices"]
