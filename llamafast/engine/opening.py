"""Opens the engine that a model file needs."""

from __future__ import annotations

from llamafast.engine.config import EngineConfig
from llamafast.engine.encoder import Encoder
from llamafast.engine.engine import Engine
from llamafast.engine.loading import load_model
from llamafast.engine.model_info import makes_embeddings


def open_engine(path: str, config: EngineConfig) -> Engine | Encoder:
    """The engine of a GGUF file: an Encoder if the model generates no text. Raises ModelLoadError, ConfigError."""
    model = load_model(path, config)
    return Encoder(model, config) if makes_embeddings(model) else Engine(model, config)
