"""Schemas of tools and Pydantic models, by name."""

from __future__ import annotations

import json
from pathlib import Path

from tests.grammars.models import MODELS

TOOLS: dict[str, dict] = json.loads(Path(__file__).with_name("tool_schemas.json").read_text())
SCHEMAS: dict[str, dict] = {**TOOLS, **{model.__name__: model.model_json_schema() for model in MODELS}}
