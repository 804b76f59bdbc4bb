"""Loading: the names of the configured model, and several models in one process."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from llamafast.launch.config import Config
from llamafast.launch.config_file import load_config
from llamafast.launch.load import load_served_model, names_of
from llamafast.launch.model_file import BUILT_IN_MODEL
from llamafast.server.served_model import Capability, ServedModel
from llamafast.server.state import ServerSettings, ServerState
from tests.tiny_models import write_encoder_model

CONFIGS = Path(__file__).parents[2] / "configs"
# The names that llama-cpp-python's example server lists for the models of its configurations.
EXAMPLE_SERVER_NAMES = {
    "bge-small-en-v1.5": "bge-small-en-v1.5",
    "gemma-4-12b-it-qat": "gemma-4-12b-it-qat",
    "gpt-oss-120b": "gpt-oss-120b",
    "qwen3.5-0.8b": "qwen3.5-0.8b-vl",
    "qwen3.6-27b": "qwen3.6-27b",
    "qwen3.6-35b-a3b": "qwen3.6-35b-a3b",
}


@pytest.mark.parametrize(("config", "name"), EXAMPLE_SERVER_NAMES.items())
def test_shipped_config_has_the_name_of_the_example_server(config: str, name: str) -> None:
    assert name in names_of(load_config(CONFIGS / f"{config}.json").model, Path("model.gguf")).exact


def test_shipped_config_of_an_encoder_serves_embeddings(tmp_path: Path) -> None:
    write_encoder_model(tmp_path / "encoder.gguf")
    document = json.loads((CONFIGS / "bge-small-en-v1.5.json").read_text())
    del document["model"]["from_pretrained"]
    document["model"]["path"] = str(tmp_path / "encoder.gguf")
    document["server"]["model_probe"] = False
    with load_served_model(Config.model_validate(document), lambda line: None) as served:
        assert (served.alias, served.max_seq_len) == ("bge-small-en-v1.5", 512)
        assert served.capabilities == {Capability.EMBEDDINGS}


def test_names_without_an_alias_begin_with_the_name_of_the_file() -> None:
    model = Config.model_validate({"model": {"path": "m", "aliases": ["b", "gpt-*", "c"]}}).model
    names = names_of(model, Path("folder/a.gguf"))
    assert (names.exact, names.patterns) == (("a", "b", "c"), ("gpt-*",))


@pytest.fixture(scope="module")
def loaded() -> list[tuple[ServedModel, str]]:
    """Two models loaded in one process, and the lines reported for each."""
    fields = {"path": "built-in", "n_ctx": 256, "n_seq_max": 1, "threads": 1}
    lines: list[str] = []
    with ExitStack() as stack:
        models = [
            stack.enter_context(load_served_model(Config.model_validate({"model": model}), lines.append))
            for model in ({**fields, "alias": "a"}, {**fields, "alias": "b", "max_seq_len": 128})
        ]
    return list(zip(models, lines, strict=True))


def test_load_served_model_twice_brings_two_models_of_one_server(loaded: list[tuple[ServedModel, str]]) -> None:
    models = [model for model, _ in loaded]
    state = ServerState(models, ServerSettings())
    assert [state.model_for(name).max_seq_len for name in ("a", "b")] == [256, 128]


def test_load_served_model_reports_each_model(loaded: list[tuple[ServedModel, str]]) -> None:
    assert all(str(BUILT_IN_MODEL) in text and "256 tokens for 1 sequences" in text for _, text in loaded)


def test_load_served_model_knows_what_the_built_in_model_can_do(loaded: list[tuple[ServedModel, str]]) -> None:
    assert loaded[0][0].capabilities == set(Capability) - {Capability.AUDIO, Capability.EMBEDDINGS}
