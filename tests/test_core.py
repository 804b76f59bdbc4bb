"""The façade with the built-in model: facts, memory, sampling, and a guard against each abort in llama.h."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

import llamafast
from llamafast import _core, _runner, _sampling
from llamafast.engine.plan import StepKind, StepPlan
from llamafast.errors import DecodeError, ModelLoadError

MODEL_PATH = str(Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf")
LORA_PATH = str(Path(llamafast.__file__).parent / "models" / "tiny-qwen35-lora-f16.gguf")
TRAPS = Path(__file__).parent / "core_traps.py"
REFUSED = 3


@pytest.fixture(scope="module")
def model():
    return _core.Model(MODEL_PATH)


@pytest.fixture
def context(model):
    return make_context(model)


def make_context(model, **changes):
    settings = {"n_ctx": 512, "n_batch": 32, "n_ubatch": 32, "n_seq_max": 4, "n_outputs_max": 4, "threads": 1}
    return _core.Context(model, **{**settings, **changes})


def greedy(n_vocab, **changes):
    return _sampling.Sampler(n_vocab, temperature=0.0, **changes)


def run(context, rows, samplers=None, outputs=None):
    """(runner, token of each sampler). rows: (token, pos, seq). By default the last row is sampled greedily."""
    batch = _core.Batch(64)
    for row in rows:
        batch.add(*row)
    runner = _runner.ModelRunner(context)
    samplers = [greedy(context.model.n_vocab)] if samplers is None else samplers
    outputs = [len(rows) - 1] if outputs is None else outputs
    runs = runner.step(StepPlan(StepKind.DECODE, batch, rows=outputs, samplers=samplers))
    return runner, [token for (token,) in runs]


def prompt(model, text="The capital of France is", seq=0):
    return [(token, pos, seq) for pos, token in enumerate(model.tokenize(text, True, False))]


# Model


def test_model_facts_match_the_file(model):
    assert (model.n_vocab, model.n_ctx_train, model.is_hybrid, model.is_recurrent) == (3584, 32768, True, False)
    assert model.metadata["general.architecture"] == "qwen35"
    assert model.token_bytes(model.eos_id, special=True) == b"<|im_end|>"
    assert model.token_bytes(model.eos_id) == b""
    assert model.is_eog(model.eos_id) and model.is_control(model.eos_id)
    assert "im_start" in model.chat_template()
    assert model.chat_template("no such template") is None
    assert model.size_bytes > 3_000_000 and model.n_params > 1_000_000 and "qwen35" in model.description


@pytest.mark.parametrize("text", ["", "a", "Grüße 🦙 \0 end", "x" * 5000, "<|im_end|>"])
def test_tokenize_then_bytes_gives_the_text_back(model, text):
    ids = model.tokenize(text, False, False)
    assert b"".join(model.token_bytes(i) for i in ids).decode() == text


def test_tokenize_parses_control_tokens_only_when_asked(model):
    assert model.tokenize("<|im_end|>", False, True) == [model.eos_id]
    assert model.eos_id not in model.tokenize("<|im_end|>", False, False)


def test_tokenize_lone_surrogate_raises(model):
    with pytest.raises(UnicodeEncodeError):
        model.tokenize("\ud800", False, False)


@pytest.mark.parametrize("token_id", [-1, 3584, 2**31 - 1])
def test_token_bytes_outside_vocabulary_raises(model, token_id):
    with pytest.raises(ValueError, match="not in"):
        model.token_bytes(token_id)


def test_model_vocab_only_tokenizes_and_makes_no_context(model):
    vocab = _core.Model(MODEL_PATH, vocab_only=True)
    assert vocab.tokenize("Paris", False, False) == model.tokenize("Paris", False, False)
    with pytest.raises(ModelLoadError, match="vocab_only"):
        _core.Context(vocab)


def test_model_progress_is_reported_and_can_cancel():
    seen = []
    _core.Model(MODEL_PATH, progress=lambda fraction: seen.append(fraction) or True)
    assert seen[-1] == 1.0
    with pytest.raises(ModelLoadError):
        _core.Model(MODEL_PATH, progress=lambda fraction: False)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(200), b"not a model"])
def test_model_damaged_file_raises(tmp_path, content):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"bad\.gguf"):
        _core.Model(str(path))


def test_model_truncated_file_raises(tmp_path):
    path = tmp_path / "short.gguf"
    path.write_bytes(Path(MODEL_PATH).read_bytes()[:1_500_000])
    with pytest.raises(ModelLoadError, match=r"short\.gguf"):
        _core.Model(str(path))


def test_model_missing_file_raises():
    with pytest.raises(ModelLoadError, match="No such file"):
        _core.Model("/no/such/file.gguf")


def test_model_kv_overrides_change_the_facts():
    model = _core.Model(MODEL_PATH, kv_overrides={"qwen35.context_length": 4096}, vocab_only=False)
    assert model.n_ctx_train == 4096


def test_live_handles_return_to_the_start():
    before = _core.live_handles()
    model = _core.Model(MODEL_PATH)
    objects = [make_context(model), _core.Batch(4), greedy(model.n_vocab)]
    assert _core.live_handles()["Context"] == before["Context"] + 1
    del objects, model
    assert _core.live_handles() == before


# Context and memory


def test_context_sizes_are_read_back(context):
    assert (context.n_ctx, context.n_batch, context.n_seq_max, context.memory_kind) == (512, 32, 4, "hybrid")


@pytest.mark.parametrize(
    "changes",
    [{"n_ctx": -1}, {"n_batch": 0}, {"n_seq_max": 0}, {"n_seq_max": 257}, {"threads": 0}, {"type_k": 9999}],
)
def test_context_bad_sizes_raise(model, changes):
    with pytest.raises(ModelLoadError):
        make_context(model, **changes)


def test_seq_cp_whole_sequence_forks_exactly(model, context):
    rows = prompt(model)
    run(context, rows)
    context.seq_cp(0, 1, -1, -1)
    next_row = (100, len(rows))
    first = run(context, [(*next_row, 0)])[0].logits(0)
    second = run(context, [(*next_row, 1)])[0].logits(0)
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-3


def test_state_of_a_sequence_goes_into_another(model, context):
    rows = prompt(model)
    run(context, rows)
    state = context.state_seq_get(0)
    expected = run(context, [(100, len(rows), 0)])[0].logits(0)
    context.state_seq_set(2, state)
    assert context.seq_pos_max(2) == len(rows) - 1
    found = run(context, [(100, len(rows), 2)])[0].logits(0)
    assert max(abs(a - b) for a, b in zip(expected, found, strict=True)) < 1e-3


@pytest.mark.parametrize("state", [b"", b"x", bytes(range(64)), bytes(10_000)])
def test_state_foreign_bytes_raise_and_the_context_lives(model, context, state):
    with pytest.raises(ValueError, match="state"):
        context.state_seq_set(0, state)
    assert run(context, prompt(model))[1]


def test_seq_rm_removes_a_whole_sequence(model, context):
    run(context, prompt(model))
    assert context.seq_rm(0, -1, -1)
    assert context.seq_pos_max(0) == -1


def test_loras_change_the_output_and_zero_takes_them_off(model, context):
    number = model.load_lora(LORA_PATH)
    rows = prompt(model)

    def logits():
        context.clear()
        return run(context, rows)[0].logits(0)

    plain = logits()
    context.set_loras([(number, 1.0)])
    assert max(abs(a - b) for a, b in zip(plain, logits(), strict=True)) > 1e-2
    context.set_loras([])
    assert max(abs(a - b) for a, b in zip(plain, logits(), strict=True)) < 1e-3
    with pytest.raises(ValueError, match="number"):
        context.set_loras([(99, 1.0)])


# Guards: calls that would make llama.h abort the process are refused


@pytest.mark.parametrize(
    ("trap", "dies"),
    [
        ("nothing_wrong", False),
        ("too_many_tokens", True),
        ("too_many_outputs", True),
        ("token_outside_vocabulary", None),
        ("sequence_outside_range", None),
        ("shift_what_cannot_shift", True),
        ("copy_part_of_a_stream", True),
        ("foreign_state", None),
    ],
)
def test_trap_without_guard_kills_the_process_or_is_refused(trap, dies):
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, str(TRAPS), trap, MODEL_PATH]
    code = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode
    assert code < 0 if dies else code == (REFUSED if dies is None else 0)


def test_step_too_many_rows_raises(context):
    with pytest.raises(ValueError, match="n_batch"):
        run(context, [(5, pos, 0) for pos in range(33)])


def test_step_too_many_outputs_raises(model, context):
    samplers = [greedy(model.n_vocab) for _ in range(5)]
    with pytest.raises(ValueError, match="n_outputs_max"):
        run(context, [(5, pos, 0) for pos in range(5)], samplers, list(range(5)))


@pytest.mark.parametrize("row", [(-1, 0, 0), (3584, 0, 0), (5, -1, 0), (5, 0, -1), (5, 0, 4)])
def test_step_row_out_of_range_raises(context, row):
    with pytest.raises(ValueError, match="row 0"):
        run(context, [row])


def test_step_output_row_out_of_range_raises(context):
    with pytest.raises(ValueError, match="row 1"):
        run(context, [(5, 0, 0)], outputs=[1])


def test_step_empty_batch_raises(context):
    with pytest.raises(ValueError, match="0 rows"):
        _runner.ModelRunner(context).step(StepPlan(StepKind.DECODE, _core.Batch(4)))


def test_batch_full_raises():
    batch = _core.Batch(2)
    batch.extend(array("i", [1, 2]), 0, 2, 0, 0)
    with pytest.raises(ValueError, match="full"):
        batch.add(1, 2, 0)


@pytest.mark.parametrize("call", ["seq_rm", "seq_cp", "seq_pos_max", "state_seq_get"])
def test_sequence_id_out_of_range_raises(context, call):
    arguments = {"seq_rm": (4, -1, -1), "seq_cp": (0, 4, -1, -1)}.get(call, (4,))
    with pytest.raises(ValueError, match="sequence id 4"):
        getattr(context, call)(*arguments)


def test_shift_of_a_memory_that_cannot_raises(model, context):
    run(context, prompt(model))
    assert not context.can_shift
    with pytest.raises(ValueError, match="cannot be shifted"):
        context.seq_add(0, 0, -1, -1)


def test_copy_of_a_part_of_a_stream_raises(model):
    context = make_context(model, kv_unified=False)
    run(context, prompt(model))
    with pytest.raises(ValueError, match="whole sequence"):
        context.seq_cp(0, 1, 0, 2)


def test_step_without_kv_room_raises_1_and_changes_nothing(model):
    context = make_context(model, n_ctx=256)
    for start in range(0, 256, 32):
        run(context, [(5, pos, 0) for pos in range(start, start + 32)])
    with pytest.raises(DecodeError) as error:
        run(context, [(5, 0, 1)])
    assert error.value.status_code == 1
    assert context.seq_pos_max(0) == 255 and context.seq_pos_max(1) == -1


# Sampling


def test_step_greedy_is_the_argmax(model, context):
    runner, (token,) = run(context, prompt(model))
    logits = runner.logits(0)
    assert token == max(range(len(logits)), key=logits.__getitem__)


def test_step_forks_of_one_row_draw_by_their_own_seed(model, context):
    seeds = [1, 2, 1]
    samplers = [_sampling.Sampler(model.n_vocab, temperature=3.0, seed=seed) for seed in seeds]
    first, second, third = run(context, prompt(model), samplers, [len(prompt(model)) - 1] * 3)[1]
    assert first == third != second


def test_logit_bias_and_penalties_leave_the_row_as_it_was(model, context):
    rows = prompt(model)
    plain = run(context, rows)[0].logits(0)
    context.clear()
    sampler = greedy(model.n_vocab, logit_bias=[(42, 100.0), (43, -1e9)], repetition_penalty=1.5,
                     presence_penalty=1.0, banned_ids=[7, 42], min_tokens=5)  # fmt: skip
    sampler.prime(array("i", [42, 7, 7]))
    runner, (token,) = run(context, rows, [sampler])
    assert token not in (7, 42)
    assert runner.logits(0) == plain


def test_logit_bias_forces_a_token(model, context):
    sampler = _sampling.Sampler(model.n_vocab, seed=3, logit_bias=[(42, 1000.0)])
    assert run(context, prompt(model), [sampler])[1] == [42]


def test_banned_ids_are_free_after_min_tokens(model, context):
    rows = prompt(model)
    sampler = greedy(model.n_vocab, logit_bias=[(42, 1000.0)], banned_ids=[42], min_tokens=1)
    assert run(context, rows, [sampler])[1] != [42]
    context.clear()
    assert run(context, rows, [sampler])[1] == [42]


def test_logprobs_are_raw_and_best_first(model, context):
    sampler = greedy(model.n_vocab, num_logprobs=5, logit_bias=[(42, 1000.0)])
    runner, (token,) = run(context, prompt(model), [sampler])
    logits = runner.logits(0)
    total = math.log(sum(math.exp(value - max(logits)) for value in logits)) + max(logits)
    logprob, top = runner.logprobs(0)
    assert token == 42
    assert logprob == pytest.approx(logits[42] - total, abs=1e-4)
    best = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:5]
    assert [i for i, _ in top] == best
    assert [value for _, value in top] == pytest.approx([logits[i] - total for i in best], abs=1e-4)


def test_logprobs_not_asked_raise(context, model):
    runner = run(context, prompt(model))[0]
    with pytest.raises(ValueError, match="has no logprobs"):
        runner.logprobs(0)
    with pytest.raises(IndexError):
        runner.logprobs(1)


def test_sampler_for_another_vocabulary_raises(context, model):
    with pytest.raises(ValueError, match="another vocabulary"):
        run(context, prompt(model), [greedy(10)])
