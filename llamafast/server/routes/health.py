"""GET /health, /healthz and /ready."""

from __future__ import annotations

from fastapi import APIRouter

from llamafast.errors import ShuttingDownError
from llamafast.server.state import ServerState


def health_router(state: ServerState) -> APIRouter:
    """The router with these routes. It reports on the models of `state`."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    @router.get("/healthz")
    @router.head("/health", include_in_schema=False)
    @router.head("/healthz", include_in_schema=False)
    async def health() -> dict[str, object]:
        """Liveness: 503 when all engines have died and the process needs a restart. Lists the dead engines."""
        dead = state.deaths()
        return {"status": "degraded", "dead": dead} if dead else {"status": "ok"}

    @router.get("/ready")
    @router.head("/ready", include_in_schema=False)
    async def ready() -> dict[str, object]:
        """Readiness: 503 if no model takes new requests. Lists the models that take none.

        The server listens only after the models are loaded.
        """
        dead = state.deaths()
        refusing = [model.alias for model in state.models if not model.engine_thread.ready]
        if len(refusing) == len(state.models):
            raise ShuttingDownError("the engine is not ready", code="not_ready")
        if not refusing:
            return {"status": "ready"}
        return {"status": "degraded", "not_ready": {alias: dead.get(alias, "shutting down") for alias in refusing}}

    return router
