"""Which attention an engine uses where the configuration leaves it open."""

import pytest

from llamafast.engine.config import EngineConfig
from llamafast.engine.loading import choose_attention


class FakeModel:
    n_ctx_train = 32768
    metadata = {"general.architecture": "llama", "llama.attention.head_count": "8"}  # noqa: RUF012


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafast.engine.loading.supports_gpu_offload", lambda: False)


def test_flash_attention_few_sequences_go_without():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=8)).flash_attn is False


@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(n_seq_max=32),  # the cells of all would cost each
        EngineConfig(n_seq_max=8, type_v=8),  # quantized
        EngineConfig(n_seq_max=8, n_ubatch=4096),  # 4 GiB of scores
    ],
)
def test_flash_attention_is_left_to_llama_cpp(config):
    assert choose_attention(FakeModel(), config).flash_attn is None


def test_flash_attention_of_a_long_trained_model_goes_by_the_default_context():
    class LongTrained(FakeModel):
        n_ctx_train = 262144

    assert choose_attention(LongTrained(), EngineConfig(n_seq_max=8)).flash_attn is False


def test_flash_attention_streams_go_without_however_many():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=32, kv_unified=False)).flash_attn is False


def test_flash_attention_configured_value_stands():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=8, flash_attn=True)).flash_attn is True
