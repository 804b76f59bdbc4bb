"""The formats there are: by what a chat template writes, and by name."""

from __future__ import annotations

import difflib

from llamafast.parsing.chat_format import ChatFormat
from llamafast.parsing.tool_formats.hermes import Hermes
from llamafast.parsing.tool_formats.plain import Plain
from llamafast.parsing.tool_formats.qwen3_xml import Qwen3Xml

# The first one that matches a template is taken: those with markers of their own stand before those who share some.
_FORMATS: tuple[ChatFormat, ...] = (Qwen3Xml(), Hermes())


def detect(template: str) -> ChatFormat:
    """The format that a chat template (its Jinja source) writes; a Plain one if it writes none that is known."""
    return next((format for format in _FORMATS if format.matches(template)), Plain(template))


def by_name(name: str) -> ChatFormat:
    """The format of that name; "-" and capitals are allowed. Raises ValueError with the names there are."""
    formats = {format.name: format for format in (*_FORMATS, Plain())}
    key = name.lower().replace("-", "_")
    if key not in formats:
        near = difflib.get_close_matches(key, formats, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"no tool format is called {name!r}.{hint} There are: {', '.join(names())}")
    return formats[key]


def names() -> list[str]:
    """What the formats are called."""
    return sorted(format.name for format in (*_FORMATS, Plain()))
