"""Context shift on real memories. With one layer it is exact: keys and values depend only on their token."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.errors import ConfigError
from llamafast.request import PromptPlaces, Request, SamplingParams
from tests import tiny_models
from tests.engine.test_batch_equality import TEXT, assert_equal_or_near_tie, run

BUILT_IN = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
pytestmark = pytest.mark.usefixtures("native")
MAX_SEQ_LEN, NUM_KEPT, NUM_TOKENS = 96, 20, 200
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, logprobs=2, ignore_eos=True)


@pytest.fixture(scope="module", params=[True, False], ids=["unified", "streams"])
def memory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "one-layer.gguf"
    tiny_models.write_attention_model(path, n_layer=1)
    return path, {"kv_unified": request.param}


def open_engine(memory, **changes) -> Engine:
    path, settings = memory
    exact = {"flash_attn": False, "type_k": 0, "type_v": 0, "threads": 1}
    settings = {"n_ctx": 2048, "n_seq_max": 4, "max_seq_len": MAX_SEQ_LEN, "context_shift": True, **exact, **settings}
    return Engine(str(path), EngineConfig(**{**settings, **changes}))


def request_for(engine, request_id="long", start=0, **fields) -> Request:
    token_ids = array("i", engine.tokenizer.encode(TEXT, add_special=False, parse_special=False))
    return Request(request_id, token_ids[start : start + 40], GREEDY, places=PromptPlaces.of((NUM_KEPT,)), **fields)


def in_parts(memory, request):
    """The same output from requests that each compute all tokens that the context still has."""
    entries, token_ids = [], request.prompt_token_ids
    with open_engine(memory, context_shift=False, enable_prefix_cache=False) as engine:
        while len(entries) < NUM_TOKENS:
            params = replace(GREEDY, max_tokens=min(MAX_SEQ_LEN - len(token_ids), NUM_TOKENS - len(entries)))
            part = run(engine, [Request("part", token_ids, params)])["part"]
            entries += part
            token_ids = token_ids + array("i", [entry.token_id for entry in part])
            num_dropped = (len(token_ids) - NUM_KEPT) // 2
            token_ids = token_ids[:NUM_KEPT] + token_ids[NUM_KEPT + num_dropped :]
    return entries


def test_shifted_output_equals_one_computed_from_what_is_kept(memory):
    with open_engine(memory) as engine:
        shifted = run(engine, [request_for(engine)])["long"]
        assert engine.stats.context_shifts == 4
        assert engine.stats.computed_prompt_tokens == 40
        assert_equal_or_near_tie(shifted, in_parts(memory, request_for(engine)))


def test_neighbours_of_a_shifted_sequence_and_later_requests_are_unchanged(memory):
    with open_engine(memory) as engine:
        others = [replace(request_for(engine, str(i), 7 * i), params=replace(GREEDY, max_tokens=50)) for i in range(3)]
        together = run(engine, [request_for(engine), *others])
        assert engine.stats.context_shifts == 4
        later = run(engine, [replace(others[0], request_id="later")])["later"]
    with open_engine(memory, enable_prefix_cache=False) as engine:
        for other in others:
            alone = run(engine, [other])[other.request_id]
            assert_equal_or_near_tie(together[other.request_id], alone)
            if other is others[0]:  # begins like the long one, which was parked by then
                assert_equal_or_near_tie(later, alone)


def test_moved_cells_are_not_written_to_the_disk(memory, tmp_path):
    with open_engine(memory) as engine:
        engine.open_disk_cache(str(tmp_path), max_bytes=2**30, min_tokens=16)
        run(engine, [request_for(engine)])
        disk = engine.disk.disk
    assert disk.stats.writes == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 128}, "with this RoPE scaling"),
        ({"type_k": 30}, "cannot move keys of type_k 30"),
    ],
)
def test_settings_under_which_a_move_harms_others_are_refused(memory, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_engine(memory, **settings)


@pytest.mark.parametrize("type_k", [1, 8, 2])
def test_neighbour_of_a_moved_sequence_keeps_its_keys_bit_by_bit(tmp_path, type_k):
    tiny_models.write_attention_model(tmp_path / "wide.gguf", head_dim=64)
    with open_engine((tmp_path / "wide.gguf", {}), type_k=type_k) as engine:
        run(engine, [replace(request_for(engine, "0", 7), params=replace(GREEDY, max_tokens=1))])
        (slot,) = engine.cache._parked
        before = engine.context.state_seq_get(slot.seq_id)
        run(engine, [request_for(engine, use_cache=False)])
        assert engine.stats.context_shifts == 4
        assert engine.context.state_seq_get(slot.seq_id) == before


def test_models_without_plain_attention_are_refused(tmp_path):
    tiny_models.write_swa_model(tmp_path / "swa.gguf")
    for path, kind in ((BUILT_IN, "hybrid"), (tmp_path / "swa.gguf", "swa")):
        with pytest.raises(ConfigError, match=f"context_shift: the {kind} memory of this model cannot be shifted"):
            open_engine((path, {}))
