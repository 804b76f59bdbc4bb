"""The ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from llamafast.server.errors import install_error_handlers
from llamafast.server.openapi import DocumentedApp
from llamafast.server.routes.chat import chat_router
from llamafast.server.routes.completions import completions_router
from llamafast.server.routes.health import health_router
from llamafast.server.routes.metrics import metrics_router
from llamafast.server.routes.models import models_router
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.completions import CompletionBody
from llamafast.server.state import ServerSettings, ServerState

if TYPE_CHECKING:
    from llamafast.engine.async_engine import AsyncEngine


def create_app(engine: AsyncEngine, *, settings: ServerSettings) -> FastAPI:
    """OpenAI's API over `engine`. The lifespan starts the engine, if that is still to do, and stops it.

    uvicorn closes its listener first, then waits for open answers, then ends the lifespan. Whoever runs it calls
    app.state.preparation.stop() and awaits engine.stop(settings.shutdown_deadline_s) on SIGTERM, and only then lets
    uvicorn exit: meanwhile running answers finish, and new requests and those still being read get 503. Otherwise
    `timeout_graceful_shutdown` bounds the running answers.
    """

    state = ServerState(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not engine.ready:
            await engine.start()
        try:
            yield
        finally:
            state.preparation.stop()
            await engine.stop(settings.shutdown_deadline_s)

    app = DocumentedApp(title="llamafast", version=settings.version or "0", lifespan=lifespan, redirect_slashes=False)
    app.bodies = (ChatBody, CompletionBody)
    app.state.preparation = state.preparation
    install_error_handlers(app)
    for router in (chat_router, completions_router, models_router, health_router, metrics_router):
        app.include_router(router(state))
    return app
