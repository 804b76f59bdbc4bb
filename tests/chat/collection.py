"""llama.cpp's collection of chat templates, from the sdist of the pinned llama-cpp-python (make test-templates)."""

from __future__ import annotations

import os
from pathlib import Path

SDIST = Path(os.environ.get("LLAMAFAST_SDIST", "none"))
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
PATHS = sorted((SDIST / "vendor/llama.cpp/models/templates").glob("*.jinja"))
