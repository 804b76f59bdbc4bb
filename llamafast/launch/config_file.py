"""Reads a configuration file. Options of the command line override it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, get_args

from pydantic import BaseModel, JsonValue, ValidationError

import llamafast
from llamafast.errors import ConfigError
from llamafast.launch.config import NOT_YET, Config, ModelConfig

# Configurations and templates have at most some hundred kilobytes. A device may have no end.
_MAX_FILE_BYTES = 16 << 20

Overrides: TypeAlias = Mapping[str, Mapping[str, JsonValue]]
Where: TypeAlias = tuple[int | str, ...]


def load_config(path: str | Path | None, overrides: Overrides | None = None) -> Config:
    """Read the file, apply the overrides, and check every field.

    path: None for no file: the overrides and the defaults count.
    overrides: {section: {field: value}}.
    Raises ConfigError, with one line per fault. Each line contains the full name of the field.
    """
    overrides = overrides or {}
    raw: dict[str, JsonValue] = {} if path is None else _read(Path(path))
    for section, fields in overrides.items():
        raw[section] = _merged(raw.get(section), fields)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults = list(_explain(error))
    else:
        faults = list(_refusals(config))
        if not faults:
            return config
    raise ConfigError("\n".join(_line(where, reason, path, overrides) for where, reason in faults))


def read_text(path: Path) -> str:
    """The text of a configuration or template. Raises ConfigError if it cannot be read, is too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: the file is larger than {_MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the file is not UTF-8 text") from None


def _line(where: Where, reason: str, path: str | Path | None, overrides: Overrides) -> str:
    """`FILE: model.n_ctxx: unknown field`, without FILE if the value comes from the overrides."""
    name = ".".join(map(str, where))
    overridden = len(where) > 1 and where[1] in overrides.get(str(where[0]), {})
    return ": ".join(part for part in ("" if path is None or overridden else str(path), name, reason) if part)


def _read(path: Path) -> dict[str, JsonValue]:
    try:
        raw = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or thousands of nested brackets
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: the file must contain a JSON object with the sections server and model")
    return raw


def _merged(section: JsonValue, fields: Mapping[str, JsonValue]) -> JsonValue:
    if section is not None and not isinstance(section, dict):
        return section
    merged = dict(section or {})
    for name, value in fields.items():
        merged[name] = _merged(merged.get(name), value) if isinstance(value, dict) else value
    for path, other in (("path", "from_pretrained"), ("mmproj_path", "mmproj_from_pretrained")):
        if path in fields:
            merged.pop(other, None)
    return merged


def _explain(error: ValidationError) -> Iterator[tuple[Where, str]]:
    """The path of the field and the reason, for each fault. Unclear reasons of pydantic are replaced."""
    for fault in error.errors(include_url=False):
        where = fault["loc"]
        reason = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if fault["type"] == "extra_forbidden":
            known = difflib.get_close_matches(str(where[-1]), _fields_at(where[:-1]), n=1)
            reason = f"unknown field; did you mean {known[0]}?" if known else "unknown field"
        elif fault["type"] == "missing":
            reason = "missing"
        elif fault["type"] in ("model_type", "dict_type"):
            reason = "should be an object"
        yield where, reason


def _fields_at(where: Where) -> list[str]:
    """Names of the fields of the section at the path `where`."""
    section: type[BaseModel] = Config
    for part in where:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_in(part))), None)


def _refusals(config: Config) -> Iterator[tuple[Where, str]]:
    for name, what, no_ops in NOT_YET:
        value = getattr(config.model, name)
        if value not in (None, ModelConfig.model_fields[name].default, *no_ops):
            reason = f"{what} not supported yet by llamafast {llamafast.__version__}; remove the field"
            yield ("model", name), reason
