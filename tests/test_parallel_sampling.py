"""Rows sampled by several threads: the tokens equal those of one thread, and dependent rows use one thread."""

from __future__ import annotations

import pytest

from llamafast import _core, _runner, _sampling
from tests import tiny_models
from tests.test_core import make_context, run


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A model with rows that are long enough for several threads."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    tiny_models.write_attention_model(path, n_vocab=40_000, n_layer=1, n_embd=32, n_ff=64, q8_0=True)
    return _core.Model(str(path))


def samplers_of_all_kinds(n_vocab):
    kinds = [{}, {"top_k": 5}, {"top_p": 0.8}, {"typical_p": 0.9}, {"mirostat": 2}, {"allowed_token_ids": range(99)}]
    return [_sampling.Sampler(n_vocab, seed=i, num_logprobs=2, **kind) for i, kind in enumerate(kinds)]


@pytest.mark.parametrize("outputs", [[0, 1, 2, 3, 4, 5], [0, 0, 2, 2, 4, 5], [0, 1, 0, 1, 0, 1]])
def test_step_with_several_threads_draws_what_one_does(wide_model, outputs):
    context = make_context(wide_model, n_seq_max=6, n_outputs_max=6, threads=3)
    rows = [(7 + i, 0, i) for i in range(6)]
    runner, tokens = run(context, rows, samplers_of_all_kinds(wide_model.n_vocab), outputs)
    logits = [runner.logits(i) for i in range(6)]
    twins = samplers_of_all_kinds(wide_model.n_vocab)
    assert tokens == [twin.draw(row)[0] for twin, row in zip(twins, logits, strict=True)]
    # In the last case a row occurs before and after another one: then one thread draws all.
    assert runner.num_parallel == int(_runner.SAMPLES_IN_PARALLEL and outputs[2] != 0)


def test_step_sampler_named_twice_is_drawn_in_order(wide_model):
    context = make_context(wide_model, n_seq_max=4, n_outputs_max=4, threads=3)
    sampler, twin = (_sampling.Sampler(wide_model.n_vocab, seed=1) for _ in range(2))
    runner, tokens = run(context, [(7 + i, 0, i) for i in range(4)], [sampler] * 4, [0, 1, 2, 3])
    assert tokens == [twin.draw(runner.logits(i), position=i)[0] for i in range(4)]
    assert runner.num_parallel == 0
