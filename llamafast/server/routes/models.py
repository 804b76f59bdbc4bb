"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter

from llamafast.server.state import ServerState


def models_router(state: ServerState) -> APIRouter:
    """The routes over `state`."""
    router = APIRouter(tags=["models"])
    card: dict[str, object] = {
        "id": state.settings.alias,
        "object": "model",
        "created": state.settings.created,
        "owned_by": "llamafast",
        "max_model_len": state.engine.max_seq_len,
        "meta": dict(state.settings.meta),
    }

    @router.get("/v1/models")
    async def list_models() -> dict[str, object]:
        """The one served model."""
        return {"object": "list", "data": [card]}

    @router.get("/v1/models/{model_id:path}")
    async def retrieve_model(model_id: str) -> dict[str, object]:
        """The served model's card; 404 for another name."""
        state.check_model(model_id)
        return card

    return router
