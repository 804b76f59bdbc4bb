"""Reused prefixes on real memories: the number of computed tokens, and the same output as a cold run."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.request import PromptPlaces, Request, SamplingParams
from tests import tiny_models
from tests.engine.test_batch_equality import TEXT, assert_equal_or_near_tie, run

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
pytestmark = pytest.mark.usefixtures("native")
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logprobs=2, ignore_eos=True)
MEMORIES = {
    "attention": {},
    "attention streams": {"kv_unified": False},
    "swa whole": {"swa_full": True},
    "swa": {"swa_full": False, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 2},  # the minimum of window cells
    "swa streams": {"swa_full": False, "kv_unified": False},
    "hybrid": {},
    "hybrid streams": {"kv_unified": False},
    "built-in": {},
    "built-in streams": {"kv_unified": False},
}
UNIFIED = [name for name in MEMORIES if "streams" not in name]
WRITERS = {
    "attention": tiny_models.write_attention_model,
    "swa": tiny_models.write_swa_model,
    "hybrid": tiny_models.write_hybrid_model,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(folder / f"{name}.gguf")
    return folder


def open_engine(folder, name, **changes) -> Engine:
    """F32 if the file allows it, so that the batch size changes only the rounding."""
    kind = name.split()[0]
    path = BUILT_IN if kind == "built-in" else folder / f"{kind}.gguf"
    settings = {"n_ctx": 4096, "n_seq_max": 4, "threads": 1, "flash_attn": False, "type_k": 0, "type_v": 0}
    return Engine(str(path), EngineConfig(**{**settings, **MEMORIES[name], **changes}))


def tokens_of(engine, text) -> array:
    return array("i", engine.tokenizer.encode(text, add_special=False, parse_special=False))


def prompts(engine) -> list[array]:
    """A conversation that grows, is edited, loses turns and is repeated, with unrelated requests in between."""
    turns = [tokens_of(engine, f"{i} {TEXT[: 120 + 7 * i]}") for i in range(6)]
    other = tokens_of(engine, "Something else. " * 8)
    return [
        turns[0] + turns[1],
        other,
        turns[0] + turns[1] + turns[2] + turns[3],
        turns[0] + turns[1] + turns[2] + turns[4],
        turns[0] + turns[1] + turns[5],
        other + turns[5],
        turns[0] + turns[1] + turns[2] + turns[3],
        turns[0] + turns[1] + turns[2] + turns[3] + turns[4],
        turns[0] + other,
    ]


def requests_for(engine) -> list[Request]:
    bounds = [len(tokens_of(engine, f"{i} {TEXT[: 120 + 7 * i]}")) for i in range(3)]
    places = (bounds[0], sum(bounds[:2]), sum(bounds))
    return [
        Request(str(i), prompt, GREEDY, places=PromptPlaces.of([place for place in places if place < len(prompt)]))
        for i, prompt in enumerate(prompts(engine))
    ]


@pytest.fixture(scope="module")
def cold_run(folder):
    """The outputs without a cache by request id, and the number of computed tokens."""

    @cache
    def run_cold(name):
        with open_engine(folder, name, enable_prefix_cache=False) as engine:
            outputs = {
                request.request_id: run(engine, [request])[request.request_id] for request in requests_for(engine)
            }
            return outputs, engine.stats.computed_prompt_tokens

    return run_cold


@pytest.mark.parametrize("name", MEMORIES)
def test_conversation_with_reuse_equals_a_cold_run(folder, name, cold_run):
    cold, num_computed_cold = cold_run(name)
    with open_engine(folder, name) as engine:
        for request in requests_for(engine):
            assert_equal_or_near_tie(run(engine, [request])[request.request_id], cold[request.request_id])
        assert engine.stats.computed_prompt_tokens < num_computed_cold


@pytest.mark.parametrize("name", MEMORIES)
def test_simultaneous_requests_with_reuse_equal_a_cold_run(folder, name, cold_run):
    cold, _ = cold_run(name)
    with open_engine(folder, name) as engine:
        for request_id, tokens in run(engine, requests_for(engine)).items():
            assert_equal_or_near_tie(tokens, cold[request_id])


@pytest.mark.parametrize("name", UNIFIED)
def test_simultaneous_requests_compute_their_prefix_once(folder, name):
    with open_engine(folder, name, n_seq_max=16) as engine:
        prefix = (tokens_of(engine, TEXT) * 40)[:1500]
        own = tokens_of(engine, TEXT)
        requests = [Request(str(i), prefix + own[i : i + 20], replace(GREEDY, max_tokens=2)) for i in range(16)]
        run(engine, requests)
        assert engine.stats.computed_prompt_tokens <= 1500 + 16 * 24


@pytest.mark.parametrize("name", UNIFIED)
def test_agent_conversation_computes_new_tokens_only(folder, name):
    with open_engine(folder, name, n_ctx=8192, n_seq_max=8) as engine:
        history, num_new, ends = array("i"), 0, ()
        for turn in range(12):
            new = tokens_of(engine, f"turn {turn}: {TEXT[: 60 + 11 * turn]}")
            num_new += len(new)
            history += new
            ends = (*ends, len(history))
            before = history[: -len(new)], ends[:-1]
            params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
            run_tokens = answer(engine, Request(str(turn), history, params, places=PromptPlaces.of(ends)))
            history = history + run_tokens
        assert engine.stats.computed_prompt_tokens <= 1.1 * num_new + 12
        num_computed = engine.stats.computed_prompt_tokens
        edited = before[0] + tokens_of(engine, "an edited turn " * 5)
        answer(engine, Request("edited", edited, params, places=PromptPlaces.of(before[1])))
        assert engine.stats.computed_prompt_tokens - num_computed <= len(edited) - before[1][-1]


def answer(engine, request) -> array:
    engine.add(request)
    token_ids = array("i")
    while engine.has_work:
        for output in engine.step():
            token_ids.extend(output.token_ids)
        engine.check_integrity()
    return token_ids
