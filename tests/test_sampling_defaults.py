"""Defaults of sampling settings: those of the configuration, the GGUF file and OpenAI, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamafast.engine.engine import Engine, EngineConfig
from llamafast.errors import ConfigError
from llamafast.launch.config import Config, SamplingDefaults
from llamafast.launch.load import sampling_defaults
from llamafast.request import SamplingParams
from llamafast.server.schemas.sampling import SamplingFields
from tests import tiny_models


def open_engine(folder: Path, **settings: float) -> Engine:
    path = folder / "model.gguf"
    tiny_models.write_attention_model(path, settings=settings)
    return Engine(str(path), EngineConfig(n_ctx=256, n_seq_max=1, threads=1))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(tmp_path, temp=0.5, top_k=7) as engine:
        yield engine


def defaults(engine: Engine, **fields: object) -> dict[str, float]:
    return sampling_defaults(Config.model_validate({"model": {"path": "m", **fields}}).model, engine)


def test_defaults_of_the_gguf_hold_unless_switched_off(engine: Engine) -> None:
    assert defaults(engine) == {"temperature": 0.5, "top_k": 7}
    assert defaults(engine, gguf_sampling_defaults=False) == {}


def test_defaults_of_the_configuration_win_over_the_gguf(engine: Engine) -> None:
    given = {"temperature": 0.25, "top_p": 0.9}
    assert defaults(engine, sampling_defaults=given) == {"temperature": 0.25, "top_p": 0.9, "top_k": 7}
    assert defaults(engine, sampling_defaults=given, gguf_sampling_defaults=False) == given


def test_defaults_of_the_configuration_out_of_range_are_an_error(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"model\.sampling_defaults: top_p"):
        defaults(engine, sampling_defaults={"top_p": 7})


def test_defaults_of_the_gguf_out_of_range_say_how_to_leave_them_out(tmp_path: Path) -> None:
    with open_engine(tmp_path, top_p=7.0) as engine:
        with pytest.raises(ConfigError, match=r"top_p is 7.*gguf_sampling_defaults"):
            defaults(engine)
        assert defaults(engine, gguf_sampling_defaults=False) == {}


def test_defaults_have_the_names_and_types_of_the_request() -> None:
    assert SamplingDefaults.model_fields.keys() <= SamplingFields.model_fields.keys()
    standard = SamplingParams()
    whole = {name for name, field in SamplingDefaults.model_fields.items() if "int" in str(field.annotation)}
    assert whole == {name for name in SamplingDefaults.model_fields if isinstance(getattr(standard, name), int)}
