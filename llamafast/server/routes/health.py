"""GET /health, /healthz and /ready."""

from __future__ import annotations

from fastapi import APIRouter

from llamafast.errors import EngineDeadError, ShuttingDownError
from llamafast.server.state import ServerState


def health_router(state: ServerState) -> APIRouter:
    """The routes over `state`."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    @router.get("/healthz")
    @router.head("/health", include_in_schema=False)
    @router.head("/healthz", include_in_schema=False)
    async def health() -> dict[str, str]:
        """Whether a restart is needed: 503 once the engine has met a fatal error."""
        _check_alive(state)
        return {"status": "ok"}

    @router.get("/ready")
    @router.head("/ready", include_in_schema=False)
    async def ready() -> dict[str, str]:
        """Whether new work is taken: 503 while draining or dead. While the model loads, nothing listens."""
        _check_alive(state)
        if not state.engine.ready:
            raise ShuttingDownError("the engine is not ready", code="not_ready")
        return {"status": "ready"}

    return router


def _check_alive(state: ServerState) -> None:
    if state.engine.death is not None:
        raise EngineDeadError(f"the engine is dead: {state.engine.death}")
