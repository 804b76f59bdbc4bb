"""Opens the engine that a model file needs."""

from __future__ import annotations

from llamafast.engine.config import EngineConfig
from llamafast.engine.encoder import Encoder, is_for_embeddings
from llamafast.engine.engine import Engine
from llamafast.engine.loading import load_model


def open_engine(path: str, config: EngineConfig) -> Engine | Encoder:
    """The engine of a GGUF file: an Encoder if the model is to make embeddings. Raises ModelLoadError, ConfigError."""
    model = load_model(path, config)
    return Encoder(model, config) if is_for_embeddings(model, config) else Engine(model, config)
