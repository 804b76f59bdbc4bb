"""A fast engine and OpenAI-compatible server for GGUF models, over llama.cpp."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from llamafast._libllama import CoreFinder

if TYPE_CHECKING:
    from llamafast.engine.async_engine import AsyncEngine
    from llamafast.engine.engine import Engine
    from llamafast.request import SamplingParams
    from llamafast.server.app import create_app

__all__ = ["AsyncEngine", "Engine", "SamplingParams", "__version__", "create_app"]

__version__ = "0.1.0"

_EXPORTS = {
    "AsyncEngine": "llamafast.engine.async_engine",
    "Engine": "llamafast.engine.engine",
    "SamplingParams": "llamafast.request",
    "create_app": "llamafast.server.app",
}

sys.meta_path.insert(0, CoreFinder)


def __getattr__(name: str) -> object:
    # Exports are imported at their first use, because `llamafast --version` needs neither FastAPI nor libllama.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'llamafast' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
