"""Options of the command line for the engine's settings, made from their declarations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar, get_args

import typer
from typer.models import OptionInfo

from llamafast.engine.config import ENGINE_SETTINGS, EngineSetting

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def option(flag: str, help_text: str) -> OptionInfo:
    """An option that is also read from the environment: --n-ctx from LLAMAFAST_N_CTX."""
    name = "LLAMAFAST_" + flag.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    made: OptionInfo = typer.Option(flag, envvar=name, help=help_text, show_default=False)
    return made


def with_engine_options(command: CommandT) -> CommandT:
    """Decorator of a typer command: an option for each engine setting that has one. They come as keyword arguments."""
    added = [_parameter(setting) for setting in ENGINE_SETTINGS.values() if setting.has_option]
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    shown: Any = command
    shown.__signature__ = signature.replace(parameters=[*own, *added])
    shown.__annotations__ = {p.name: p.annotation for p in (*own, *added)} | {"return": None}
    return command


def _parameter(setting: EngineSetting) -> Parameter:
    name = setting.key or setting.name
    flag = "--" + name.replace("_", "-")
    type_: type = str if setting.names else (get_args(setting.type) or (setting.type,))[0]
    if type_ is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    info = option(flag, f"{setting.description}{_default(setting)}")
    info.default, info.param_decls = None, (flag,)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=info, annotation=type_ | None)


def _default(setting: EngineSetting) -> str:
    """The default in brackets; what 0 or an absent value means is in the description."""
    if setting.default is True:
        return " [on]"
    return f" [{setting.default}]" if setting.default else ""
