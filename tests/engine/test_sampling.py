"""Sampling in the engine: a seed gives the same text alone and in a batch; the model file's settings apply."""

from __future__ import annotations

from array import array
from itertools import pairwise
from pathlib import Path

import pytest

import llamafast
from llamafast._core import Model
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.request import Request, SamplingParams
from llamafast.sampling_params import gguf_defaults
from tests import tiny_models

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
pytestmark = pytest.mark.usefixtures("native")

SETTINGS = [
    {},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.02},
    {"repetition_penalty": 1.2, "penalty_last_n": 8, "presence_penalty": 0.5},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": ("\n", "e ")},
    {"mirostat": 1, "mirostat_tau": 3.0},
    {"mirostat": 2, "mirostat_tau": 3.0},
    {"typical_p": 0.8, "xtc_probability": 0.5, "dynatemp_range": 0.3},
    {"top_n_sigma": 1.5, "bad_words": ((30,), (40, 41)), "allowed_token_ids": tuple(range(20, 400))},
]


def open_engine(path, **changes):
    exact = {"flash_attn": False, "type_k": 0, "type_v": 0}
    return Engine(str(path), EngineConfig(**{"n_ctx": 2048, "n_seq_max": 8, "threads": 1, **exact, **changes}))


def make_request(i, token_ids, **settings):
    params = SamplingParams(**{"temperature": 0.8, "max_tokens": 16, "seed": 100 + i, "ignore_eos": True, **settings})
    return Request(str(i), array("i", token_ids), params)


def run(engine, requests):
    tokens = {request.request_id: [] for request in requests}
    for request in requests:
        engine.validate(request)
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
        engine.check_integrity()
    return tokens


@pytest.mark.parametrize("model", ["built-in", "attention"])
def test_seed_alone_and_in_a_batch_gives_the_same_text(model, tmp_path):
    path = BUILT_IN
    if model == "attention":
        path = tmp_path / "attention.gguf"
        tiny_models.write_attention_model(path)
    with open_engine(path) as engine:
        prompt = engine.tokenizer.encode("The capital of France is", add_special=True, parse_special=False)
        requests = [make_request(i, prompt[: 1 + i % 5], **settings) for i, settings in enumerate(SETTINGS)]
        together = run(engine, requests)
        assert together == {key: run(engine, [request])[key] for key, request in zip(together, requests, strict=True)}


def test_seed_after_preemption_gives_the_same_text():
    # Cells for some of them only: the youngest are preempted and computed again.
    with open_engine(BUILT_IN) as roomy, open_engine(BUILT_IN, n_ctx=256, n_seq_max=8) as tight:
        prompt = roomy.tokenizer.encode("Name three colours", add_special=True, parse_special=False)
        requests = [make_request(i, prompt * 8, **{**s, "max_tokens": 24}) for i, s in enumerate(SETTINGS)]
        assert run(tight, requests) == run(roomy, requests)
        assert tight.stats.preemptions > 0


def test_bad_words_and_allowed_ids_hold_through_the_engine(tmp_path):
    tiny_models.write_attention_model(tmp_path / "a.gguf")
    allowed = (20, 21, 22, 23)
    with open_engine(tmp_path / "a.gguf") as engine:
        settings = {"allowed_token_ids": allowed, "bad_words": ((20,), (21, 22)), "max_tokens": 200, "temperature": 5.0}
        (tokens,) = run(engine, [make_request(0, [5, 21], **settings)]).values()
    assert set(tokens) == {21, 22, 23}
    assert (21, 22) not in pairwise(tokens)


def test_suppressed_tokens_of_the_file_are_never_drawn(tmp_path):
    suppressed = tuple(range(0, 512, 2))
    tiny_models.write_attention_model(tmp_path / "a.gguf", suppress_ids=suppressed)
    with open_engine(tmp_path / "a.gguf") as engine:
        assert engine.model.suppress_ids == suppressed
        (tokens,) = run(engine, [make_request(0, [5], max_tokens=200, temperature=5.0)]).values()
    assert not set(tokens) & set(suppressed)


def test_sampling_defaults_have_the_names_of_sampling_params(tmp_path):
    path = str(tmp_path / "a.gguf")
    written = {"temp": 0.625, "top_k": 20, "top_p": 0.75, "min_p": 0.0, "penalty_repeat": 1.5, "penalty_last_n": 64,
               "xtc_probability": 0.25, "xtc_threshold": 0.125, "mirostat": 2, "mirostat_tau": 4.0,
               "mirostat_eta": 0.5}  # fmt: skip
    tiny_models.write_attention_model(path, settings=written)
    defaults = gguf_defaults(Model(path, vocab_only=True).metadata)
    names = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
    assert defaults == {names.get(key, key): value for key, value in written.items()}
    assert all(type(defaults[name]) is type(getattr(SamplingParams(), name)) for name in defaults)
    assert gguf_defaults(Model(str(BUILT_IN), vocab_only=True).metadata) == {}
