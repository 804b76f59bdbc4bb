"""What an encoder's calls do without our guards, and the guards that belong to no request (test_encoder.py: others)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import PoolingType

from llamafast import _core
from llamafast.engine.config import EngineConfig
from llamafast.engine.encoder import Encoder, make_encoder_context
from llamafast.errors import ModelLoadError
from tests.tiny_models import N_CTX_TRAIN, write_encoder_model

TRAPS = Path(__file__).parent / "core_traps.py"
NO_TOKEN = 2**32 - 1


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "encoder.gguf"
    write_encoder_model(path)
    return str(path)


def exit_code(trap, path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRAPS), trap, path]
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    "trap",
    [
        "encode_too_many_tokens",
        "encode_too_many_outputs",
        "encode_more_sequences_than_outputs",
        "encode_position_beyond_training",
        "unknown_pooling_type",
    ],
)
def test_encoder_trap_without_guard_kills_the_process(path, trap):
    assert exit_code(trap, path) < 0


def test_vocabulary_without_bos_kills_the_process_and_is_refused(tmp_path):
    path = tmp_path / "encoder.gguf"
    write_encoder_model(path, bos_id=NO_TOKEN)
    assert exit_code("tokenize_without_bos", str(path)) < 0
    with pytest.raises(ModelLoadError, match="no BOS token"):
        Encoder(str(path), EngineConfig(n_ctx=64))


@pytest.mark.parametrize("pooling_type", [-2, 5])
def test_context_of_an_unknown_pooling_type_is_refused(path, pooling_type):
    with pytest.raises(ModelLoadError, match="pooling_type"):
        _core.Context(_core.Model(path), n_ctx=64, pooling_type=pooling_type)


@pytest.mark.parametrize(
    "changes", [{}, {"n_ctx": 64}, {"n_ctx": 2 * N_CTX_TRAIN}, {"n_seq_max": 256, "n_batch": 8, "n_ubatch": 4}]
)
def test_encoder_context_has_room_for_every_output(path, changes):
    context = make_encoder_context(_core.Model(path, no_alloc=True), EngineConfig(**changes))
    assert context.n_ubatch == context.n_batch <= context.n_outputs_max
    assert context.n_seq_max <= context.n_outputs_max


def test_encoder_input_beyond_training_is_never_taken(path):
    with Encoder(path, EngineConfig(n_ctx=2 * N_CTX_TRAIN, threads=1)) as encoder:
        assert encoder.max_seq_len == N_CTX_TRAIN


@pytest.mark.parametrize(
    ("pooling", "message"), [(PoolingType.NONE, "set model.pooling_type"), (PoolingType.RANK, "rank documents")]
)
def test_encoder_that_makes_no_vectors_is_refused(tmp_path, pooling, message):
    path = tmp_path / "encoder.gguf"
    write_encoder_model(path, pooling=pooling)
    with pytest.raises(ModelLoadError, match=message):
        Encoder(str(path), EngineConfig(n_ctx=64))
