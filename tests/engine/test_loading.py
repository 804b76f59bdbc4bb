"""The start of an engine: the choice of attention, the facts about its model, its adapters."""

from array import array
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import llamafast
from llamafast.engine.config import EngineConfig
from llamafast.engine.engine import Engine
from llamafast.engine.loading import choose_attention
from llamafast.engine.model_info import model_info
from llamafast.errors import ModelLoadError
from llamafast.request import Request, SamplingParams
from tests import tiny_models
from tests.engine import fakes

MODELS = Path(llamafast.__file__).parent / "models"
CONFIG = EngineConfig(n_ctx=256, n_seq_max=1, threads=1)
ADAPTER = str(MODELS / "tiny-qwen35-lora-f16.gguf")


class FakeModel:
    n_ctx_train = 32768
    metadata = {"general.architecture": "llama", "llama.attention.head_count": "8"}  # noqa: RUF012


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafast.engine.loading.supports_gpu_offload", lambda: False)


def test_flash_attention_of_few_sequences_is_off():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=8)).flash_attn is False


@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(n_seq_max=32),  # each sequence would compute the cells of all
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


def test_flash_attention_of_many_streams_is_off():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=32, kv_unified=False)).flash_attn is False


def test_flash_attention_configured_value_is_kept():
    assert choose_attention(FakeModel(), EngineConfig(n_seq_max=8, flash_attn=True)).flash_attn is True


@pytest.fixture
def built_in() -> Iterator[Engine]:
    with Engine(str(MODELS / "tiny-qwen35-f16.gguf"), CONFIG) as engine:
        yield engine


def test_model_info_stays_after_close(tmp_path):
    path = str(tmp_path / "model.gguf")
    tiny_models.write_attention_model(Path(path), settings={"temp": 0.5})
    with Engine(path, CONFIG) as engine:
        facts = engine.model
        wanted = (facts.description, facts.n_params, facts.size_bytes, facts.n_vocab, facts.n_ctx_train, facts.n_embd)
    info = engine.model_info
    assert (info.description, info.n_params, info.size_bytes, info.n_vocab, info.n_ctx_train, info.n_embd) == wanted
    assert (info.path, dict(info.sampling_defaults)) == (path, {"temperature": 0.5})
    assert "<|im_start|>" in info.chat_template
    with pytest.raises(FrozenInstanceError):
        info.path = ""


def test_model_info_names_each_chat_template():
    model = fakes.FakeModel()
    assert model_info(model).chat_templates == {}
    assert model_info(model).chat_template is None
    model.metadata = {"tokenizer.chat_template": "A", "tokenizer.chat_template.rerank": "B", "general.name": "C"}
    assert model_info(model).chat_templates == {"": "A", "rerank": "B"}


def test_context_info_describes_the_memory(built_in):
    info = built_in.context_info
    assert (info.memory_kind, info.n_ctx, info.n_batch, info.kv_unified) == ("hybrid", 256, 256, True)
    assert info.n_seq_ids == built_in.context.n_seq_max


def written(engine: Engine) -> list[int]:
    engine.add(Request("0", array("i", [5, 6, 7]), SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)))
    token_ids: list[int] = []
    while engine.has_work:
        for output in engine.step():
            token_ids += output.token_ids
    return token_ids


@pytest.mark.usefixtures("native")
def test_add_adapter_changes_what_is_written(built_in):
    plain = written(built_in)
    with Engine(str(MODELS / "tiny-qwen35-f16.gguf"), CONFIG) as engine:
        engine.add_adapter(ADAPTER, 4.0)
        assert engine.adapters == ((ADAPTER, 4.0),)
        assert written(engine) != plain


def test_add_adapter_twice_adds_up(built_in):
    built_in.add_adapter(ADAPTER, 0.5)
    built_in.add_adapter(ADAPTER, 0.25)
    assert [adapter.scale for adapter in built_in.adapters] == [0.5, 0.25]


def test_add_adapter_that_is_not_a_file_keeps_the_others(built_in):
    with pytest.raises(ModelLoadError):
        built_in.add_adapter("missing.gguf")
    assert built_in.adapters == ()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("has_ended", [False, True])
def test_add_adapter_after_the_first_request_is_refused(built_in, has_ended):
    built_in.add(Request("0", array("i", [5, 6, 7]), SamplingParams(max_tokens=2)))
    while has_ended and built_in.has_work:
        built_in.step()
    with pytest.raises(RuntimeError, match="before the first request"):
        built_in.add_adapter(ADAPTER)


def test_add_adapter_after_the_disk_cache_was_opened_is_refused(built_in, tmp_path):
    built_in.open_disk_cache(str(tmp_path), max_bytes=1 << 20)
    with pytest.raises(RuntimeError, match="before the disk cache"):
        built_in.add_adapter(ADAPTER)
