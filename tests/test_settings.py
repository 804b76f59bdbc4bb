"""Each setting is declared once: schemas, checks, native arguments, options and configurations come from it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llamafast.engine.config import ENGINE_SETTINGS, EngineConfig, EngineSetting, Group
from llamafast.launch import cli
from llamafast.launch.config import Config, SamplingDefaults
from llamafast.launch.config_file import load_config
from llamafast.sampling_params import SAMPLING_SETTINGS, SamplingParams, SamplingSetting, gguf_defaults
from llamafast.server.schemas.sampling import SamplingFields
from llamafast.setting_fields import default_fields, request_fields
from llamafast.settings import declare, range_text, settings_of

SOURCE = Path(__file__).parents[1] / "llamafast"

# Settings that other Python code reads. All others are named only in their declaration and in native code.
READ_BY_CODE = {
    "temperature", "dry_multiplier", "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "kv_unified", "swa_full",
    "flash_attn", "type_k", "type_v", "use_mmap", "use_mlock", "kv_overrides", "embedding", "pooling_type",
    "attention_type", "top_p", "presence_penalty", "frequency_penalty",
}  # fmt: skip

# A value of each type that is not a default.
OTHER = {"dict": {"key": 1}, "tuple": (0.5, 0.5), "int": 7, "float": 0.5, "bool": True}


@cache
def words() -> dict[str, set[str]]:
    """The words of each Python file of the package."""
    files = SOURCE.rglob("*.py")
    return {path.relative_to(SOURCE).as_posix(): set(re.findall(r"\w+", path.read_text())) for path in files}


def strays(names: set[str], home: str) -> list[str]:
    """Names that occur in files other than `home`, or that do not occur in `home`."""
    return [f"{file}: {name}" for file, found in words().items() for name in names if (name in found) != (file == home)]


@cache
def native_arguments(stub: str, class_name: str) -> dict[str, Any]:
    """The keyword arguments of a native class, with their defaults."""
    (found,) = [
        node
        for node in ast.parse((SOURCE / stub).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        if default is not None
    }


def other_value(setting: EngineSetting) -> Any:
    if setting.names:
        return next(number for number in setting.names.values() if number > 0)
    kind = next(kind for kind in OTHER if kind in str(setting.type))
    return not setting.default if setting.type is bool else OTHER[kind]


def test_sampling_settings_are_named_in_their_declaration_alone() -> None:
    names = {s.name for s in SAMPLING_SETTINGS.values() if s.in_config} - READ_BY_CODE
    assert strays(names, "sampling_params.py") == []


def test_context_settings_are_named_in_their_declaration_alone() -> None:
    groups = (Group.MODEL, Group.CONTEXT)
    names = {s.name for s in ENGINE_SETTINGS.values() if s.group in groups} - READ_BY_CODE
    assert strays(names, "engine/config.py") == []


def test_sampling_setting_that_is_declared_is_in_requests_configurations_and_checks() -> None:
    setting = SamplingSetting(doc="How loud.", low=0.0, high=1.0, off=0.0, aliases=("volume",))

    @dataclass(frozen=True)
    class Wider(SamplingParams):
        loudness: float = declare(0.0, setting)

    declared = settings_of(Wider, SamplingSetting).values()
    type_, field = request_fields(declared)["loudness"]
    assert (type_, field.default, field.description) == (float, 0.0, "How loud. 0: off. Also `volume`.")
    assert default_fields(declared)["loudness"][0] == float | None
    assert [s.name for s in declared if s.has_range][-1] == "loudness"
    assert [s.name for s in declared if s.in_sampler][-1] == "loudness"


def test_sampling_fields_of_requests_and_configurations_are_the_declared_ones() -> None:
    in_request = {s.name for s in SAMPLING_SETTINGS.values() if s.in_request}
    assert in_request <= SamplingFields.model_fields.keys()
    assert SamplingDefaults.model_fields.keys() == {s.name for s in SAMPLING_SETTINGS.values() if s.in_config}


def test_sampler_takes_what_is_declared_with_the_same_defaults() -> None:
    arguments = native_arguments("_sampling.pyi", "Sampler")
    declared = {s.name: s.default for s in SAMPLING_SETTINGS.values() if s.in_sampler}
    assert {name: arguments[name] for name in declared} == declared


@pytest.mark.parametrize(
    ("class_name", "groups"), [("Model", {Group.MODEL}), ("Context", {Group.CONTEXT, Group.THREADS})]
)
def test_model_and_context_take_what_is_declared(class_name: str, groups: set[Group]) -> None:
    declared = {s.name for s in ENGINE_SETTINGS.values() if s.group in groups}
    made = {"vocab_only", "no_alloc", "progress", "n_outputs_max"}  # set by the engine, not configured
    assert native_arguments("_core.pyi", class_name).keys() - made == declared


def test_sampling_setting_that_is_off_by_default_has_that_value() -> None:
    with_off = [s for s in SAMPLING_SETTINGS.values() if s.off is not None]
    assert {s.name: s.default for s in with_off} == {s.name: s.off for s in with_off}


@pytest.mark.parametrize("name", ENGINE_SETTINGS)
def test_engine_setting_can_be_configured(name: str) -> None:
    setting = ENGINE_SETTINGS[name]
    value = other_value(setting)
    sections: dict[str, dict[str, Any]] = {"server": {}, "model": {"path": "m"}}
    sections[setting.section][setting.key or name] = value
    made = Config.model_validate(sections).engine_config()
    assert made == EngineConfig(**{name: value})
    assert made != EngineConfig()


def test_engine_settings_of_an_empty_configuration_are_the_defaults() -> None:
    assert Config.model_validate({"model": {"path": "m"}}).engine_config() == EngineConfig()


def test_engine_settings_that_are_null_are_the_defaults() -> None:
    sections: dict[str, dict[str, Any]] = {"server": {}, "model": {"path": "m"}}
    for setting in ENGINE_SETTINGS.values():
        sections[setting.section][setting.key or setting.name] = None
    assert Config.model_validate(sections).engine_config() == EngineConfig()


@pytest.mark.parametrize("setting", [s for s in ENGINE_SETTINGS.values() if s.has_option], ids=lambda s: s.name)
def test_engine_option_reaches_its_setting(setting: EngineSetting, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(cli, "load_config", lambda file, overrides: given.append(load_config(file, overrides)))
    monkeypatch.setattr("llamafast.launch.serve.serve", lambda config: None)
    flag, value = (setting.key or setting.name).replace("_", "-"), other_value(setting)
    text = next((name for name, number in setting.names.items() if number == value), str(value))
    words = [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", text]
    cli.app(["serve", "--model", "m", *words], standalone_mode=False)
    assert given[0].engine_config() == EngineConfig(**{setting.name: value})


def test_gguf_defaults_that_are_no_numbers_are_left_out() -> None:
    metadata = {"general.sampling.temp": "warm", "general.sampling.top_k": "1e999", "general.sampling.top_p": "0.5"}
    assert gguf_defaults(metadata) == {"top_p": 0.5}


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ((0.0, 1.0), "0 to 1"),
        ((0.0, 1.0, True), "above 0, 1 at most"),
        ((1, 2**31 - 1), "1 or more"),
        ((-(2**31), 2**31 - 1), ""),
    ],
)
def test_range_text_names_the_limits(limits: tuple[float, float], text: str) -> None:
    assert range_text(*limits) == text


def test_described_records_show_each_setting_in_their_docstring() -> None:
    assert [name for name in SAMPLING_SETTINGS if f"\n{name}: " not in str(SamplingParams.__doc__)] == []
    assert [name for name in ENGINE_SETTINGS if f"\n{name}: " not in str(EngineConfig.__doc__)] == []
