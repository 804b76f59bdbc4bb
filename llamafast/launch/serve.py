"""Runs the server for a Config, and ends its process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn

import llamafast
from llamafast.errors import EngineDeadError
from llamafast.launch.config import Config
from llamafast.launch.draining import LAST_LINES_S, DrainingServer
from llamafast.launch.greeting import greeting
from llamafast.launch.listener import bind, listen, url_of
from llamafast.launch.load import load_served_model
from llamafast.launch.output import Output, log_to
from llamafast.responses.store import ResponseStore
from llamafast.server.app import create_app
from llamafast.server.connection import HttpConnection
from llamafast.server.receiving.preparation import Preparation
from llamafast.server.responses.service import failed_by_restart
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerSettings

# Seconds that open connections get to send their last bytes after the last request.
_FLUSH_S = 5

# Limits of WebSockets: the size of a frame, and the seconds between pings and until a pong.
_MAX_FRAME_BYTES = 32 * 2**20
_PING_S = 20.0

# Seconds in which a thread that prepares a request notices that it is abandoned, unless a library call takes longer.
_ABANDONED_S = 0.5


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, finish the running requests, and return.

    Raises ConfigError, ModelLoadError, EngineDeadError.
    """
    output = Output(1)
    try:
        with bind(config.server.host, config.server.port) as listener, response_store(config) as store:
            with load_served_model(config, output.write) as served:
                preparation, death = _run(config, [served], store, listener, output)
            _end(preparation, death, output)
    finally:
        output.flush(LAST_LINES_S)


@contextmanager
def response_store(config: Config) -> Iterator[ResponseStore | None]:
    """The store of responses, closed at the end; None if it is switched off. Raises ConfigError."""
    if not config.server.responses_store:
        yield None
        return
    section = config.responses_store
    path = None if section.path is None else Path(section.path)
    with closing(ResponseStore(path, max_bytes=section.max_bytes, ttl_s=section.ttl_s)) as store:
        store.fail_active(failed_by_restart)
        yield store


def _run(
    config: Config,
    models: Sequence[ServedModel],
    store: ResponseStore | None,
    listener: socket.socket,
    output: Output,
) -> tuple[Preparation, str | None]:
    """Serve the models. Returns the preparation threads, and the reasons why engines died, or None."""
    server = config.server
    listen(listener)
    log_to(output, Output(2), access_log=server.access_log)
    settings = ServerSettings(
        max_body_bytes=server.max_body_bytes,
        strict_fields=server.strict_fields,
        keepalive_s=server.keepalive_s,
        shutdown_deadline_s=server.shutdown_deadline_s,
        version=llamafast.__version__,
    )
    app = create_app(models, settings=settings, response_store=store)
    preparation: Preparation = app.state.preparation
    uvicorn_config = uvicorn.Config(
        app,
        http=HttpConnection,
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=_MAX_FRAME_BYTES,
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_PING_S,
        log_config=None,
        log_level="info" if server.access_log else "warning",
        access_log=server.access_log,
        timeout_graceful_shutdown=_FLUSH_S,
    )
    draining = DrainingServer(
        uvicorn_config,
        models,
        preparation,
        deadline_s=server.shutdown_deadline_s,
        greeting=greeting(url_of(listener), models),
        output=output,
        on_drain=app.state.sockets.close,
    )
    if not server.keep_dead:
        for model in models:
            model.engine_thread.on_death = draining.on_death
    draining.run(sockets=[listener])
    return preparation, _deaths(models)


def _deaths(models: Sequence[ServedModel]) -> str | None:
    """The reasons why engines died, with the names of the models if there are several; None if none died."""
    if len(models) == 1:
        return None if models[0].death is None else f"the engine died: {models[0].death}"
    return "; ".join(f"the engine of '{m.alias}' died: {m.death}" for m in models if m.death is not None) or None


def _end(preparation: Preparation, death: str | None, output: Output) -> None:
    """Raise EngineDeadError if engines died. Ends the process here if a thread still prepares a request.

    Such a thread may still read memory that a normal end of the process frees.
    """
    if not preparation.has_ended(_ABANDONED_S):
        output.flush(LAST_LINES_S)
        if death is not None:
            print(f"llamafast: {death}", file=sys.stderr, flush=True)
        os._exit(0 if death is None else 1)
    if death is not None:
        raise EngineDeadError(death)
