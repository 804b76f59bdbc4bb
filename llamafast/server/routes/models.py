"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter

from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerState


def models_router(state: ServerState) -> APIRouter:
    """The router with these routes. It lists the models of `state`."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models")
    async def list_models() -> dict[str, object]:
        """List one card for each exact name of each model. The alias comes first."""
        cards = [_card(model, name) for model in state.models for name in model.names.exact]
        return {"object": "list", "data": cards}

    @router.get("/v1/models/{model_id:path}")
    async def retrieve_model(model_id: str) -> dict[str, object]:
        """The card of the model that answers requests with this name. 404 if no model has the name."""
        return _card(state.model_for(model_id), model_id)

    return router


def _card(model: ServedModel, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "llamafast",
        "max_model_len": model.max_seq_len,
        "input_modalities": ["text", *(() if model.media is None else model.media.kinds)],
        "meta": dict(model.meta),
    }
