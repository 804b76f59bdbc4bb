"""Loads a model from its configuration into a ServedModel."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llamafast
from llamafast.engine.async_encoder import AsyncEncoder
from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.config import EngineConfig
from llamafast.engine.encoder import Encoder
from llamafast.engine.engine import Engine
from llamafast.engine.model_info import ModelInfo
from llamafast.engine.opening import open_engine
from llamafast.errors import ConfigError, InvalidRequestError
from llamafast.host.cpu import default_threads
from llamafast.launch.chat_setup import chat_format, chat_template
from llamafast.launch.config import Config, ModelConfig
from llamafast.launch.greeting import describe, describe_encoder
from llamafast.launch.media_setup import BUILT_IN_MEDIA, media_loader, projector_settings
from llamafast.launch.model_file import BUILT_IN_MODEL, local_path, projector_path
from llamafast.launch.probe import check_model
from llamafast.request import Request, SamplingParams
from llamafast.server.model_names import ModelNames
from llamafast.server.served_model import DEFAULT_BUDGET_MESSAGE, RequestDefaults, ServedModel


@contextmanager
def load_served_model(config: Config, report: Callable[[str], None]) -> Iterator[ServedModel]:
    """Load the model of `config`. Leaving the context frees it. May be called for several configurations.

    report: takes lines for the operator: progress, then a description of the loaded model.
    Raises ConfigError, ModelLoadError.
    """
    model = config.model
    path = local_path(model, "model")
    loras = [(str(local_path(lora, f"model.loras.{i}")), lora.scale) for i, lora in enumerate(model.loras)]
    engine_config, thread_source = _with_threads(config.engine_config())
    if config.server.model_probe:
        check_model(path, engine_config, loras, is_known=path == BUILT_IN_MODEL, report=report)
    projector = projector_path(model, path)
    with open_engine(str(path), engine_config) as engine:
        if isinstance(engine, Encoder):
            _check_encoder(config)
            served = _served_encoder(engine, config, path)
            report(describe_encoder(path, engine, thread_source=thread_source))
        else:
            if projector is not None:
                engine.add_projector(str(projector), projector_settings(model.mtmd or BUILT_IN_MEDIA))
            _prepare(engine, config, loras)
            served = _served_model(engine, config, path)
            report(describe(path, engine, served, thread_source=thread_source))
        yield served


def names_of(model: ModelConfig, path: Path) -> ModelNames:
    """The names of the configuration. Without an alias, the name of the file at `path` is the alias."""
    return ModelNames.of(model.alias or os.fsencode(path.stem).decode("utf-8", "replace"), model.aliases)


def sampling_defaults(model: ModelConfig, engine: Engine) -> dict[str, float]:
    """Default sampling settings: those of the GGUF, overridden by the configuration. Raises ConfigError."""
    given: dict[str, float] = model.sampling_defaults.model_dump(exclude_none=True)
    values = {**(engine.model_info.sampling_defaults if model.gguf_sampling_defaults else {}), **given}
    params: dict[str, Any] = dict(values)
    try:
        engine.prepare(Request("", array("i", [0]), SamplingParams(**params)))
    except InvalidRequestError as error:
        if error.param in given:
            raise ConfigError(f"model.sampling_defaults: {error}") from None
        if error.param in values:
            raise ConfigError(f"the model file's {error}; set model.gguf_sampling_defaults to false") from None
    return values


def _with_threads(config: EngineConfig) -> tuple[EngineConfig, str]:
    """The config with a number of threads, and the reason for the number."""
    threads, source = (config.threads, "as configured") if config.threads else default_threads()
    return replace(config, threads=threads, threads_batch=config.threads_batch or threads), source


def _prepare(engine: Engine, config: Config, loras: Sequence[tuple[str, float]]) -> None:
    """Give the engine its adapters and its disk cache. Raises ConfigError."""
    for lora, scale in loras:
        engine.add_adapter(lora, scale)
    if config.disk_cache is not None:
        engine.open_disk_cache(**config.disk_cache.model_dump())


def _check_encoder(config: Config) -> None:
    """Raise ConfigError for settings that a model of embeddings cannot honour."""
    if config.model.loras:
        raise ConfigError("model.loras: adapters of models that make embeddings are not supported yet")
    if config.model.mtmd is not None:
        raise ConfigError("model.mtmd: a model that makes embeddings takes no images; remove it")
    if config.disk_cache is not None:
        raise ConfigError("disk_cache: a model that makes embeddings keeps no prefixes; remove it")


def _served_encoder(encoder: Encoder, config: Config, path: Path) -> ServedModel:
    return ServedModel.of_encoder(
        AsyncEncoder(encoder),
        names_of(config.model, path),
        prompts=config.model.prompts,
        meta=_meta(encoder.model_info),
        created=int(time.time()),
        version=llamafast.__version__,
    )


def _served_model(engine: Engine, config: Config, path: Path) -> ServedModel:
    model, facts = config.model, engine.model_info
    template = chat_template(model, facts.chat_template, engine.tokenizer)
    answers = chat_format(model, template)
    message = model.reasoning_budget_message
    return ServedModel.new(
        AsyncEngine(engine),
        names_of(model, path),
        chat_template=template,
        chat_format=answers,
        defaults=RequestDefaults(
            sampling=sampling_defaults(model, engine),
            chat_template_kwargs=model.chat_template_kwargs,
            reasoning_budget=model.reasoning_budget,
            reasoning_budget_message=DEFAULT_BUDGET_MESSAGE if message is None else message,
        ),
        parse_special_in_messages=model.parse_special_in_messages,
        media=None if engine.media is None else media_loader(model.mtmd or BUILT_IN_MEDIA, engine.media),
        meta=_meta(facts),
        created=int(time.time()),
        version=llamafast.__version__,
    )


def _meta(facts: ModelInfo) -> dict[str, int | float | str]:
    return {
        "n_vocab": facts.n_vocab,
        "n_ctx_train": facts.n_ctx_train,
        "n_embd": facts.n_embd,
        "n_params": facts.n_params,
        "size": facts.size_bytes,
    }
