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
    async def health() -> dict[str, object]:
        """Whether a restart is needed: 503 once all engines have met a fatal error. Names those that have."""
        dead = _dead(state)
        return {"status": "degraded", "dead": dead} if dead else {"status": "ok"}

    @router.get("/ready")
    @router.head("/ready", include_in_schema=False)
    async def ready() -> dict[str, object]:
        """Whether new requests are taken: 503 if no engine takes any. Names the models that take none.

        While the models load, nothing listens.
        """
        dead = _dead(state)
        refusing = [model.alias for model in state.models if not model.engine.ready]
        if len(refusing) == len(state.models):
            raise ShuttingDownError("the engine is not ready", code="not_ready")
        if not refusing:
            return {"status": "ready"}
        return {"status": "degraded", "not_ready": {alias: dead.get(alias, "shutting down") for alias in refusing}}

    return router


def _dead(state: ServerState) -> dict[str, str]:
    """By the alias of each model whose engine has died, the reason. Raises EngineDeadError if all have died."""
    dead = {model.alias: model.death for model in state.models if model.death is not None}
    if len(dead) < len(state.models):
        return dead
    if len(dead) == 1:
        raise EngineDeadError(f"the engine is dead: {next(iter(dead.values()))}")
    reasons = "; ".join(f"model '{alias}': {reason}" for alias, reason in dead.items())
    raise EngineDeadError(f"all engines are dead: {reasons}")
