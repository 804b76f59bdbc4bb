"""The generated GGUF files load, have their memory kind, and give finite logits that depend on the text."""

from __future__ import annotations

import math
from array import array

import pytest

from llamafast._core import Batch, Context, Model
from llamafast._runner import ModelRunner
from llamafast._sampling import Sampler
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.tokenizer import Tokenizer
from tests import tiny_models

WRITERS = {
    "attention": tiny_models.write_attention_model,
    "swa": tiny_models.write_swa_model,
    "moe": tiny_models.write_moe_model,
    "hybrid": tiny_models.write_hybrid_model,
    "large_vocab": tiny_models.write_large_vocab_model,
}
TEXT = "hello the world\n" * 4


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_models")
    for name, write in WRITERS.items():
        write(folder / f"{name}.gguf")
    return {name: str(folder / f"{name}.gguf") for name in WRITERS}


def greedy(path: str, text: str, num_tokens: int) -> tuple[list[int], list[float]]:
    """Token ids generated after text, and their raw logprobs."""
    model = Model(path)
    context = Context(model, n_ctx=256, n_seq_max=1, n_outputs_max=1, swa_full=False)
    runner, sampler, batch = ModelRunner(context), Sampler(model.n_vocab, temperature=0.0, num_logprobs=1), Batch(256)
    prompt = array("i", model.tokenize(text, False, True))
    row = batch.extend(prompt, 0, len(prompt), 0, 0)
    token_ids, logprobs = [], []
    for i in range(num_tokens):
        token_ids += runner.step(StepPlan(StepKind.DECODE, batch, rows=[row], samplers=[sampler]))[0]
        logprobs.append(runner.logprobs(0)[0])
        batch.clear()
        row = batch.add(token_ids[-1], len(prompt) + i, 0)
    return token_ids, logprobs


@pytest.mark.parametrize("name", WRITERS)
def test_tiny_model_greedy_run_gives_finite_logprobs_and_varied_tokens(paths, name):
    token_ids, logprobs = greedy(paths[name], TEXT, 16)
    assert all(math.isfinite(x) and x < 0 for x in logprobs)
    assert len(set(token_ids)) > 4


@pytest.mark.parametrize("name", WRITERS)
def test_tiny_model_early_text_changes_the_answer(paths, name):
    assert greedy(paths[name], "a" + TEXT, 8) != greedy(paths[name], "e" + TEXT, 8)


@pytest.mark.parametrize(
    ("name", "memory_kind"), [("attention", "attention"), ("swa", "swa"), ("moe", "attention"), ("hybrid", "hybrid")]
)
def test_tiny_model_memory_kind_is_that_of_its_name(paths, name, memory_kind):
    assert Context(Model(paths[name]), n_ctx=256, n_seq_max=1, n_outputs_max=1).memory_kind == memory_kind


@pytest.mark.parametrize("name", ["attention", "large_vocab"])
def test_tiny_model_vocabulary_is_byte_level_with_control_tokens(paths, name):
    tokenizer = Tokenizer(Model(paths[name], vocab_only=True))
    text = "hello thé 🛑\0<|im_end|>"
    token_ids = tokenizer.encode(text, add_special=True, parse_special=True)
    assert tokenizer.decode(token_ids, skip_special=False) == text
    assert token_ids[-1] == tokenizer.eos_id
    assert len(tokenizer.encode("hello", add_special=True, parse_special=True)) == 1
    assert [tokenizer.token_bytes_of(i, special=True) for i in tokenizer.fim_ids] == [
        b"<|fim_prefix|>",
        b"<|fim_suffix|>",
        b"<|fim_middle|>",
    ]


def test_tiny_model_large_vocabulary_has_text_for_every_word(paths):
    tokenizer = Tokenizer(Model(paths["large_vocab"], vocab_only=True))
    assert tokenizer.n_vocab == 248_320
    assert all(tokenizer.pieces[256 : -len(tiny_models.CONTROL_TOKENS)])


@pytest.mark.parametrize("name", ["attention", "swa", "moe", "hybrid"])
def test_tiny_model_equal_seeds_give_equal_files_and_others_not(tmp_path, paths, name):
    with open(paths[name], "rb") as file:
        default = file.read()
    WRITERS[name](tmp_path / "same.gguf", seed=0)
    WRITERS[name](tmp_path / "other.gguf", seed=1)
    assert (tmp_path / "same.gguf").read_bytes() == default
    assert (tmp_path / "other.gguf").read_bytes() != default
