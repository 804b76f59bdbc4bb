"""The formats there are: by what a chat template writes, and by name."""

from __future__ import annotations

import difflib

from llamafast.parsing.chat_format import ChatFormat
from llamafast.parsing.tool_formats.apriel import Apriel
from llamafast.parsing.tool_formats.gigachat import GigaChat
from llamafast.parsing.tool_formats.glm import Glm
from llamafast.parsing.tool_formats.granite import Granite
from llamafast.parsing.tool_formats.hermes import Hermes
from llamafast.parsing.tool_formats.hunyuan3 import Hunyuan3
from llamafast.parsing.tool_formats.minicpm5 import MiniCpm5
from llamafast.parsing.tool_formats.minimax_m1 import MiniMaxM1
from llamafast.parsing.tool_formats.minimax_m2 import MiniMaxM2
from llamafast.parsing.tool_formats.nemotron import Nemotron
from llamafast.parsing.tool_formats.phi import Phi
from llamafast.parsing.tool_formats.plain import Plain
from llamafast.parsing.tool_formats.qwen3_xml import Qwen3Xml
from llamafast.parsing.tool_formats.seed_oss import SeedOss
from llamafast.parsing.tool_formats.solar import Solar

# The first one that matches a template is taken: those with markers of their own stand before those who share some.
_FORMATS: tuple[ChatFormat, ...] = (
    SeedOss(),
    MiniMaxM2(),
    Solar(),
    Hunyuan3(),
    GigaChat(),
    Nemotron(),
    Apriel(),
    MiniMaxM1(),
    Phi(),
    Granite(),
    MiniCpm5(),
    Glm(),
    Qwen3Xml(),
    Hermes(),
)


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
