"""The options of `llamafast serve`, made from the fields of the configuration that declare an option.

Each option can also come from the environment: --n-ctx from LLAMAFAST_N_CTX.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from llamafast.launch.config import DiskCacheConfig, MediaConfig, ModelConfig, ServerConfig
from llamafast.launch.config_file import Overrides
from llamafast.setting_fields import HasOption

CommandT = TypeVar("CommandT", bound=Callable[..., None])

# "mtmd" is a section of "model".
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "server": ServerConfig,
    "model": ModelConfig,
    "mtmd": MediaConfig,
    "disk_cache": DiskCacheConfig,
}


def _option(flag: str, help_text: str) -> OptionInfo:
    name = "LLAMAFAST_" + flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    made: OptionInfo = typer.Option(flag, envvar=name, help=help_text, show_default=False)
    return made


ConfigFile: TypeAlias = Annotated[
    Path | None, typer.Argument(help="Configuration file (JSON).", envvar="LLAMAFAST_CONFIG")
]
Model: TypeAlias = Annotated[str | None, _option("--model", "Model file (GGUF).")]


def overrides(options: Mapping[str, JsonValue]) -> Overrides:
    """The settings of the given options, by section. None: the option is not given."""
    found: dict[str, dict[str, JsonValue]] = {"server": {}, "model": {}}
    for name, value in options.items():
        if name in OPTIONS and value is not None:
            section, field = OPTIONS[name]
            is_list = _is_list(_SECTIONS[section].model_fields[field])
            items: JsonValue = [item.strip() for item in str(value).split(",")] if is_list else value
            found.setdefault(section, {})[field] = items
    media = found.pop("mtmd", None)
    if media is not None:
        found["model"]["mtmd"] = media
    return found


def with_options(command: CommandT) -> CommandT:
    """Decorator of a typer command: adds the options, which the command gets as keyword arguments."""
    added = [_parameter(name, _SECTIONS[section].model_fields[field]) for name, (section, field) in OPTIONS.items()]
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    parameters = [*own, *(p for p in added if p.name not in signature.parameters)]
    shown: Any = command
    shown.__signature__ = signature.replace(parameters=parameters)
    shown.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


def _options() -> Iterator[tuple[str, tuple[str, str]]]:
    for section, record in _SECTIONS.items():
        for field, info in record.model_fields.items():
            if any(isinstance(item, HasOption) for item in info.metadata):
                yield (field if section != "disk_cache" else f"disk_cache_{field}"), (section, field)


OPTIONS: Mapping[str, tuple[str, str]] = {
    "model": ("model", "path"),
    "disk_cache": ("disk_cache", "path"),
    "mmproj": ("mtmd", "mmproj_path"),
    **dict(_options()),
}
"""The section and the field of each option, by the option's name."""


def _parameter(name: str, field: FieldInfo) -> Parameter:
    flag = "--" + name.replace("_", "-")
    type_ = _type(field)
    text = f"{field.description}{' Separated by commas.' if _is_list(field) else ''}{_default(name, field)}"
    info = _option(f"{flag}/--no-{flag[2:]}" if type_ is bool else flag, text)
    info.default, info.param_decls = None, (str(info.default),)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=info, annotation=type_ | None)


def _is_list(field: FieldInfo) -> bool:
    annotation: Any = field.annotation
    return tuple in (get_origin(annotation), *map(get_origin, get_args(annotation)))  # a tuple, or a tuple or None


def _type(field: FieldInfo) -> type:
    """The type of an option's value. Lists are given with commas, and values that have names by name."""
    given = next((item.type for item in field.metadata if isinstance(item, HasOption)), None)
    kinds: list[Any] = [given or field.annotation]
    while get_args(kinds[0]):  # int | None, Annotated[str, ...]
        kinds = list(get_args(kinds[0]))
    found: type = kinds[0]
    return found


def _default(name: str, field: FieldInfo) -> str:
    """The default in brackets. The description explains 0 and an absent value."""
    value = field.get_default()
    if isinstance(value, bool):
        return " [on]" if value else " [off]"
    if not isinstance(value, int | float | str) or not value:
        return ""
    return f" [{int(value) >> 20} MiB]" if name.endswith("_bytes") else f" [{value}]"
