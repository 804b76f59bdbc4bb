"""Makes pydantic fields from the declarations of settings, for request bodies and configuration sections."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, create_model

from llamafast.engine.config import EngineSetting
from llamafast.sampling_params import SamplingSetting
from llamafast.settings import INT32_MAX

M = TypeVar("M", bound=BaseModel)
FieldDefinitions: TypeAlias = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class HasOption:
    """Marks a field of the configuration that has an option on the command line.

    type: type of the option's value; None: the type of the field.
    """

    type: type | None = None


Int32: TypeAlias = Annotated[int, Field(ge=-(2**31), lt=2**31)]


def with_fields(definitions: FieldDefinitions) -> Callable[[type[M]], type[M]]:
    """Class decorator: appends these fields to the model's own fields."""

    def extended(model: type[M]) -> type[M]:
        fields: dict[str, Any] = dict(definitions)
        made = create_model(model.__name__, __base__=model, __module__=model.__module__, **fields)
        made.__doc__ = model.__doc__
        made.__qualname__ = model.__qualname__
        return made

    return extended


def request_fields(settings: Iterable[SamplingSetting]) -> FieldDefinitions:
    """The fields of request bodies, with their types. The engine checks the ranges."""
    return {s.name: (s.type, Field(s.default, description=s.description)) for s in settings if s.in_request}


def default_fields(settings: Iterable[SamplingSetting]) -> FieldDefinitions:
    """Fields for defaults in a configuration; None: no default. The engine checks the ranges."""
    return {
        s.name: ((Int32 if s.type is int else s.type) | None, Field(None, description=s.meaning))
        for s in settings
        if s.in_config
    }


def section_fields(settings: Iterable[EngineSetting], section: str) -> FieldDefinitions:
    """The engine's fields of one section of a configuration, with their ranges."""
    return {
        s.key or s.name: (
            _with_option(s, Annotated[s.type, BeforeValidator(_numbered(s.names))] if s.names else s.type),
            Field(s.default, description=s.description, **_limits(s)),
        )
        for s in settings
        if s.section == section
    }


def _with_option(setting: EngineSetting, type_: Any) -> Any:
    """The type of a field, marked if the command line has an option for it. An option takes names as text."""
    return Annotated[type_, HasOption(str if setting.names else None)] if setting.has_option else type_


def _limits(setting: EngineSetting) -> dict[str, Any]:
    """Arguments of pydantic's Field for a range."""
    if not setting.has_range:
        return {}
    limits: dict[str, Any] = {}
    if math.isfinite(setting.low):
        limits["gt" if setting.above else "ge"] = setting.low
    if setting.high == INT32_MAX:
        limits["lt"] = INT32_MAX + 1
    elif math.isfinite(setting.high):
        limits["le"] = setting.high
    return limits if setting.type in (int, int | None) else {**limits, "allow_inf_nan": False}


def _numbered(names: Mapping[str, int]) -> Callable[[object], object]:
    """A validator for a value of a llama.h enumeration, given by name or by number."""

    def number_of(value: object) -> object:
        if value in names.values():
            return value
        if isinstance(value, str) and value.lower() in names:
            return names[value.lower()]
        choices = ", ".join(f"{name} ({number})" for name, number in names.items())
        raise ValueError(f"{value!r} is not one of {choices}")

    return number_of
