"""From a Config to a running server: load the model, say what was loaded, serve, finish what runs on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

import llamafast
from llamafast.chat.format import ChatFormat
from llamafast.chat.prompt.template import ChatTemplate
from llamafast.engine.async_engine import AsyncEngine
from llamafast.engine.config import EngineConfig
from llamafast.engine.engine import Engine
from llamafast.errors import ConfigError, EngineDeadError, InvalidRequestError
from llamafast.host.cpu import default_threads
from llamafast.launch.chat_setup import UNKNOWN_CALLS, chat_format, chat_template, hides_calls
from llamafast.launch.config import BUILT_IN, Config, FileConfig, ModelConfig
from llamafast.launch.hub import resolve
from llamafast.launch.output import Output, log_to
from llamafast.launch.probe import check_model
from llamafast.request import Request, SamplingParams
from llamafast.server.app import create_app
from llamafast.server.connection import HttpConnection
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.state import DEFAULT_BUDGET_MESSAGE, ServerSettings

BUILT_IN_MODEL = Path(__file__).parents[1] / "models" / "tiny-qwen35-f16.gguf"

# Once no request runs, open connections have only their last bytes to send.
_FLUSH_S = 5

# Threads that prepare requests look this often at least whether they still should, but for some calls into libraries.
_ABANDONED_S = 0.5

_ENGINE_FIELDS = set(EngineConfig.__dataclass_fields__) & set(ModelConfig.model_fields)

# What is still to write when the process ends may take so long.
_LAST_LINES_S = 2.0

# They would end the process, as when the terminal is closed that it was started from.
_IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs and return. Raises ConfigError, ModelLoadError."""
    output = Output(1)
    try:
        _serve(config, output)
    finally:
        output.flush(_LAST_LINES_S)


def _serve(config: Config, output: Output) -> None:
    with _bind(config.server.host, config.server.port) as listener:
        path = _local_path(config.model, "model")
        loras = [(str(_local_path(lora, f"model.loras.{i}")), lora.scale) for i, lora in enumerate(config.model.loras)]
        threads, reason = _threads(config.model)
        engine_config = _engine_config(config, threads)
        if config.server.model_probe:
            check_model(path, engine_config, loras, is_known=path == BUILT_IN_MODEL, report=output.write)
        with Engine(str(path), engine_config) as engine:
            for lora, scale in loras:
                engine.add_adapter(lora, scale)
            if config.disk_cache is not None:
                engine.open_disk_cache(**config.disk_cache.model_dump())
            if not engine.limits.generates:
                raise ConfigError(f"{path}: this model makes embeddings, which are not served yet")
            template = chat_template(config.model, engine.model_info.chat_template, engine.tokenizer)
            answers = chat_format(config.model, template)
            settings = _settings(config, path, engine, template, answers)
            output.write(_description(path, engine, reason, answers))
            if hides_calls(answers, template):
                output.write(f"tools    {UNKNOWN_CALLS}")
            if config.model.mtmd is not None:
                output.write("images   not supported yet: model.mtmd is not used, and requests with images get a 400")
            async_engine = AsyncEngine(engine, max_queued_requests=config.server.max_queued_requests)
            _listen(listener)
            log_to(output, Output(2), access_log=config.server.access_log)
            app = create_app(async_engine, settings=settings)
            server = DrainingServer(
                uvicorn.Config(
                    app,
                    http=HttpConnection,
                    lifespan="on",
                    ws="none",
                    log_config=None,
                    log_level="info" if config.server.access_log else "warning",
                    access_log=config.server.access_log,
                    timeout_graceful_shutdown=_FLUSH_S,
                ),
                async_engine,
                settings.shutdown_deadline_s,
                app.state.preparation,
                _greeting(listener, settings),
                output,
            )
            if not config.server.keep_dead:
                async_engine.on_death = server.leave
            server.run(sockets=[listener])
            death = None if async_engine.death is None else f"the engine died: {async_engine.death}"
    if not app.state.preparation.has_ended(_ABANDONED_S):
        # A tokenizer at work reads what the end of the process destroys.
        output.flush(_LAST_LINES_S)
        if death is not None:
            print(f"llamafast: {death}", file=sys.stderr, flush=True)
        os._exit(0 if death is None else 1)
    if death is not None:
        raise EngineDeadError(death)


class DrainingServer(uvicorn.Server):
    """uvicorn, but new work gets 503 while running requests finish, and only then the listener closes.

    The first SIGTERM or SIGINT starts that, with `deadline_s` seconds at most; the second ends the process at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        engine: AsyncEngine,
        deadline_s: float,
        preparation: Preparation,
        greeting: str,
        output: Output,
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._preparation = preparation
        self._deadline_s = deadline_s
        self._greeting = greeting
        self._output = output
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets=sockets)
        # A full collection goes through all objects, and nobody else runs meanwhile: not through those of the start.
        gc.collect()
        gc.freeze()
        gc.collect()  # from now on they count as none
        if self.started:
            self._output.write(self._greeting)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Our handlers in place of uvicorn's, which close the listener first and end the process by the signal."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, self._on_signal)
        for number in _IGNORED_SIGNALS:
            loop.add_signal_handler(number, self._output.write, f"{number.name} is ignored")
        try:
            yield
        finally:
            for number in (*handled, *_IGNORED_SIGNALS):
                loop.remove_signal_handler(number)

    def leave(self, reason: str) -> None:
        """End the process once the last bytes are sent: an engine has died, and only a new process has another."""
        self.should_exit = True

    def _on_signal(self) -> None:
        if self._drain_task is not None:
            self._output.write("stopped at once")
            self._output.flush(_LAST_LINES_S)
            # Threads inside llama.cpp cannot be interrupted: leave without waiting for them.
            os._exit(1)
        self._drain_task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        self._preparation.stop()
        num_requests = self._engine.num_running + self._engine.num_waiting
        if num_requests:
            self._output.write(
                f"finishing {num_requests} requests, {self._deadline_s:g} s at most; a second signal stops at once"
            )
        try:
            await self._engine.stop(self._deadline_s)
        finally:
            self.should_exit = True


def sampling_defaults(model: ModelConfig, engine: Engine) -> dict[str, float]:
    """What holds where a request is silent: the configuration's settings, then the GGUF's. Raises ConfigError."""
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


def _bind(host: str, port: int) -> socket.socket:
    """A socket on host:port that does not listen yet. Bound before the model loads: a taken port is known at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(_address_fault(host, port, error)) from None
    return listener


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(2048)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise ConfigError(_address_fault(host, port, error)) from None


def _address_fault(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with --host or --port"


def _local_path(source: FileConfig, name: str) -> Path:
    """Where the file lies; downloads it if need be. `name` is the section's, for errors."""
    if source.from_pretrained is not None:
        return resolve(source.from_pretrained)
    if source.path == BUILT_IN:
        return BUILT_IN_MODEL
    path = Path(str(source.path)).expanduser()
    if not path.is_file():
        raise ConfigError(f"{name}.path: {path}: no such file")
    return path


def _threads(model: ModelConfig) -> tuple[int, str]:
    if model.threads is not None:
        return model.threads, "as configured"
    return default_threads()


def _engine_config(config: Config, threads: int) -> EngineConfig:
    model = config.model
    values = model.model_dump(include=_ENGINE_FIELDS, exclude_none=True)
    values.update(
        threads=threads,
        threads_batch=model.threads_batch or threads,
        enable_prefix_cache=model.prefix_cache,
        max_queued_requests=config.server.max_queued_requests,
    )
    return EngineConfig(**values)


def _settings(
    config: Config, path: Path, engine: Engine, template: ChatTemplate | None, answers: ChatFormat
) -> ServerSettings:
    model, server, wanted = engine.model_info, config.server, config.model
    message = wanted.reasoning_budget_message
    return ServerSettings(
        alias=wanted.alias or os.fsencode(path.stem).decode("utf-8", "replace"),
        chat_template=template,
        chat_format=answers,
        chat_template_kwargs=wanted.chat_template_kwargs,
        parse_special_in_messages=wanted.parse_special_in_messages,
        reasoning_budget=wanted.reasoning_budget,
        reasoning_budget_message=DEFAULT_BUDGET_MESSAGE if message is None else message,
        max_body_bytes=server.max_body_bytes,
        strict_fields=server.strict_fields,
        keepalive_s=server.keepalive_s,
        created=int(time.time()),
        shutdown_deadline_s=server.shutdown_deadline_s,
        version=llamafast.__version__,
        sampling_defaults=sampling_defaults(wanted, engine),
        meta={
            "n_vocab": model.n_vocab,
            "n_ctx_train": model.n_ctx_train,
            "n_embd": model.n_embd,
            "n_params": model.n_params,
            "size": model.size_bytes,
        },
    )


def _description(path: Path, engine: Engine, reason: str, answers: ChatFormat) -> str:
    model, context = engine.model_info, engine.context_info
    kind = model.description.replace(" ?B", "")  # llama.cpp has no name for the size
    return (
        f"model    {path}\n"
        f"         {kind}, {model.n_params:,} parameters, {model.size_bytes / 2**20:,.1f} MiB\n"
        f"context  {context.n_ctx} tokens for {engine.n_seq_max} sequences, {context.memory_kind} memory, "
        f"batches of {context.n_batch}\n"
        f"threads  {context.threads} ({reason})\n"
        f"answers  {answers.name}"
    )


def _greeting(listener: socket.socket, settings: ServerSettings) -> str:
    """Where the server is, and a request that works."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    question = "What is the capital of France?"
    body: dict[str, object] = {"model": settings.alias}
    if settings.chat_template is None:
        route = "completions"
        body |= {"prompt": question, "max_tokens": 32}
    else:
        route = "chat/completions"
        body |= {"messages": [{"role": "user", "content": question}]}
    data = json.dumps(body).replace("'", "'\\''")
    return (
        f"serving  {settings.alias} on {url}; try:\n"
        f"curl {url}/v1/{route} -H 'Content-Type: application/json' -d '{data}'"
    )
