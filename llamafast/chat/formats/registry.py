"""The registry of chat formats: finds a format by the chat template that writes it, or by its name."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from importlib import import_module

import llamafast.chat.formats as package
from llamafast.chat.format import ChatFormat
from llamafast.chat.formats.plain import Plain


def by_priority(formats: Iterable[ChatFormat]) -> tuple[ChatFormat, ...]:
    """The formats in the order in which templates are compared with them, whatever order they come in.

    A higher priority comes first. The names of the classes decide between equal priorities.
    """
    return tuple(sorted(formats, key=lambda format: (-format.priority, type(format).__name__)))


def _found() -> list[ChatFormat]:
    """One object of each format class that the modules of this package define."""
    modules = [import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    return [
        value()
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ChatFormat) and value.__module__ == module.__name__
    ]


FORMATS = by_priority(_found())
# Two formats of one family may share a name. The name then means the one of lower priority, which is the general one.
_BY_NAME = {format.name: format for format in FORMATS}


def detect(template: str) -> ChatFormat:
    """The format that a chat template (its Jinja source) writes. It is a Plain one if no other format matches."""
    format = next(format for format in FORMATS if format.matches(template))
    return Plain(template) if isinstance(format, Plain) else format


def by_name(name: str) -> ChatFormat:
    """The format of this name, in which "-" may replace "_" and capitals are allowed.

    Raises ValueError, which lists the known names.
    """
    key = name.lower().replace("-", "_")
    if key not in _BY_NAME:
        near = difflib.get_close_matches(key, _BY_NAME, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown tool format {name!r}.{hint} The known formats are: {', '.join(names())}")
    return _BY_NAME[key]


def names() -> list[str]:
    """The names of all formats, sorted."""
    return sorted(_BY_NAME)
