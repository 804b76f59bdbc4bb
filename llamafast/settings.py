"""Setting: the declaration of one field of a record, with type, default, range and documentation.

`SamplingParams` and `EngineConfig` are records of settings. The checks, the schemas of requests and configurations,
the arguments of native classes and the documentation come from the declarations, so a new field is declared once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

INT32_MAX = 2**31 - 1

_KEY = "setting"

T = TypeVar("T")
S = TypeVar("S", bound="Setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The declaration of one field.

    doc: the meaning and unit of the field, as sentences in Markdown.
    low, high: the smallest and the largest allowed value; infinite: no limit.
    above: whether `low` itself is excluded.
    name, type, default: properties of the field; settings_of() fills them in.
    """

    doc: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    name: str = ""
    type: Any = None
    default: Any = None

    @property
    def is_optional(self) -> bool:
        """Whether None is an allowed value."""
        return NoneType in get_args(self.type)

    @property
    def has_range(self) -> bool:
        """Whether the value is a number with a limit."""
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def description(self) -> str:
        """The text for schemas and documentation."""
        return self.doc


def declare(default: T, setting: Setting) -> T:
    """A dataclass field with this default and declaration."""
    declared: Any = field(default=default, metadata={_KEY: setting})
    return declared  # type: ignore[no-any-return]


def settings_of(record: type, kind: type[S]) -> dict[str, S]:
    """The settings of a record by name, in the record's order. kind: the class of their declarations."""
    types = get_type_hints(record)
    found = {f.name: (f.metadata[_KEY], f.default) for f in fields(record)}
    assert all(isinstance(setting, kind) for setting, _ in found.values())
    return {
        name: replace(setting, name=name, type=types[name], default=default)
        for name, (setting, default) in found.items()
    }


def described(record: type[T]) -> type[T]:
    """Class decorator: adds a line for each setting to the record's docstring, which help() shows."""
    if record.__doc__ is not None:  # python -OO removes docstrings
        lines = [_line(f.name, f.metadata[_KEY]) for f in fields(record)]  # type: ignore[arg-type]
        record.__doc__ = "\n".join([record.__doc__.rstrip(), "", *lines])
    return record


def range_text(low: float, high: float, above: bool = False) -> str:
    """A range in words: `0 to 1`, `above 0`, `1 or more`. Limits of 32-bit integers are omitted."""
    has_low, has_high = low > -(2**31), high < INT32_MAX
    if has_low and has_high:
        return f"above {low:.15g}, {high:.15g} at most" if above else f"{low:.15g} to {high:.15g}"
    if has_low:
        return f"above {low:.15g}" if above else f"{low:.15g} or more"
    return f"{high:.15g} or less" if has_high else ""


def _line(name: str, setting: Setting) -> str:
    limits = range_text(setting.low, setting.high, setting.above)
    return f"{name}: {setting.description}{f' Range: {limits}.' if limits else ''}"
