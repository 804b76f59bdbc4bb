"""The ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from llamafast.responses.store import ResponseStore
from llamafast.server.errors import install_error_handlers
from llamafast.server.openapi import DocumentedApp
from llamafast.server.responses.service import Responses
from llamafast.server.routes.chat import chat_router
from llamafast.server.routes.completions import completions_router
from llamafast.server.routes.embeddings import embeddings_router
from llamafast.server.routes.health import health_router
from llamafast.server.routes.metrics import metrics_router
from llamafast.server.routes.models import models_router
from llamafast.server.routes.response_socket import ResponseSockets, response_socket_router
from llamafast.server.routes.responses import responses_router
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.completions import CompletionBody
from llamafast.server.schemas.embeddings import EmbeddingsBody
from llamafast.server.schemas.responses import ResponseBody
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerSettings, ServerState


def create_app(
    models: Sequence[ServedModel],
    *,
    settings: ServerSettings | None = None,
    response_store: ResponseStore | None = None,
) -> FastAPI:
    """Make the application that serves OpenAI's API over one or several models.

    models: at least one. The first one answers requests that name no model.
    settings: settings of HTTP. None: the defaults.
    response_store: stores the responses of /v1/responses; the caller closes it after the lifespan. None: no responses
    are stored.

    The lifespan starts the engines that do not run yet, and stops all engines at its end. uvicorn first closes its
    listener, then waits for open answers, and only then ends the lifespan. To refuse new requests with a 503 while
    running answers finish, do these things on SIGTERM: call app.state.preparation.stop() and app.state.sockets.close(),
    await engine.stop(settings.shutdown_deadline_s) for each engine, and then let uvicorn exit. Without these steps
    uvicorn's `timeout_graceful_shutdown` limits the running answers.

    Raises ValueError if two models have the same name.
    """
    settings = settings or ServerSettings()
    state = ServerState(models, settings)
    responses = Responses(state, response_store)
    sockets = ResponseSockets(state, responses)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            for model in state.models:
                if not model.engine_thread.ready:
                    await model.engine_thread.start()
            yield
        finally:
            state.preparation.stop()
            sockets.close()
            await asyncio.gather(*(model.engine_thread.stop(settings.shutdown_deadline_s) for model in state.models))
            await responses.close()

    app = DocumentedApp(title="llamafast", version=settings.version or "0", lifespan=lifespan, redirect_slashes=False)
    app.bodies = (ChatBody, CompletionBody, ResponseBody, EmbeddingsBody)
    app.state.preparation = state.preparation
    app.state.sockets = sockets
    install_error_handlers(app)
    for router in (
        chat_router,
        completions_router,
        embeddings_router,
        models_router,
        health_router,
        metrics_router,
    ):
        app.include_router(router(state))
    app.include_router(responses_router(state, responses))
    app.include_router(response_socket_router(sockets))
    return app
