"""The formats there are: by what a chat template writes, and by name."""

from __future__ import annotations

import difflib

from llamafast.chat.format import ChatFormat
from llamafast.chat.formats.apertus import Apertus
from llamafast.chat.formats.apriel import Apriel
from llamafast.chat.formats.command_r import CommandR
from llamafast.chat.formats.command_r7b import CommandR7b
from llamafast.chat.formats.deepseek_dsml import DeepseekDsml
from llamafast.chat.formats.deepseek_v3 import DeepseekV3
from llamafast.chat.formats.function_gemma import FunctionGemma
from llamafast.chat.formats.functionary_v31 import FunctionaryV31
from llamafast.chat.formats.functionary_v32 import FunctionaryV32
from llamafast.chat.formats.gemma4 import Gemma4
from llamafast.chat.formats.gigachat import GigaChat, GigaChat31
from llamafast.chat.formats.glm import Glm
from llamafast.chat.formats.granite import Granite
from llamafast.chat.formats.harmony import Harmony
from llamafast.chat.formats.hermes import Hermes
from llamafast.chat.formats.hunyuan3 import Hunyuan3
from llamafast.chat.formats.internlm2 import InternLm2
from llamafast.chat.formats.kimi_k2 import KimiK2
from llamafast.chat.formats.kimi_k3 import KimiK3
from llamafast.chat.formats.lfm2 import Lfm2
from llamafast.chat.formats.llama3_json import Llama3Json
from llamafast.chat.formats.llama_pythonic import Llama4Pythonic, LlamaPythonic
from llamafast.chat.formats.minicpm5 import MiniCpm5
from llamafast.chat.formats.minimax_m1 import MiniMaxM1
from llamafast.chat.formats.minimax_m2 import MiniMaxM2
from llamafast.chat.formats.minimax_m3 import MiniMaxM3
from llamafast.chat.formats.mistral import Mistral
from llamafast.chat.formats.muse import Muse
from llamafast.chat.formats.nemotron import Nemotron
from llamafast.chat.formats.phi import Phi
from llamafast.chat.formats.plain import Plain
from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.chat.formats.seed_oss import SeedOss
from llamafast.chat.formats.solar import Solar
from llamafast.chat.formats.xlam import Xlam

# The first one that matches a template is taken: those with markers of their own stand before those who share some.
_FORMATS: tuple[ChatFormat, ...] = (
    Harmony(),
    Gemma4(),
    FunctionGemma(),
    DeepseekDsml(),
    DeepseekV3(),
    KimiK2(),
    CommandR7b(),
    CommandR(),
    Apertus(),
    Mistral(),
    Lfm2(),
    FunctionaryV32(),
    FunctionaryV31(),
    InternLm2(),
    Xlam(),
    Llama4Pythonic(),
    LlamaPythonic(),
    Llama3Json(),
    SeedOss(),
    MiniMaxM2(),
    MiniMaxM3(),
    Muse(),
    KimiK3(),
    Solar(),
    Hunyuan3(),
    GigaChat31(),
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
    return sorted({format.name for format in (*_FORMATS, Plain())})
