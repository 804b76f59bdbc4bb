"""POST /v1/responses, and the stored responses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import orjson
from fastapi import APIRouter, Request, Response

from llamafast.errors import InvalidRequestError
from llamafast.server.answers.responses import LINES
from llamafast.server.constraint import warning_headers
from llamafast.server.delivery import EventStream, streamed_answer, whole_answer
from llamafast.server.openapi import body_docs
from llamafast.server.responses.background import EventReplay
from llamafast.server.responses.service import Responses, StartedResponse
from llamafast.server.schemas.responses import ResponseBody
from llamafast.server.state import ServerState

_MAX_LISTED = 100
_LISTED = 20


def responses_router(state: ServerState, responses: Responses) -> APIRouter:
    """The routes over `state` and `responses`."""
    router = APIRouter(tags=["responses"])
    keepalive_s = state.settings.keepalive_s

    @router.post("/v1/responses", response_model=None, openapi_extra=body_docs(ResponseBody))
    async def create_response(request: Request) -> Response:
        """Answer a conversation, or continue a stored one."""
        asked = await responses.ask(request)
        body = asked.body
        framing = LINES if body.background else None
        started = await responses.start(asked, request.receive, framing=framing)
        headers = warning_headers(started.warnings)
        if body.background:
            return await _in_background(started, headers, is_streamed=body.stream)
        commit = partial(responses.keep, started)
        if body.stream:
            return streamed_answer(started.outputs, started.formatter, keepalive_s, headers, commit)
        return await whole_answer(request, started.outputs, started.formatter, headers, commit)

    async def _in_background(started: StartedResponse, headers: Mapping[str, str], *, is_streamed: bool) -> Response:
        run = await responses.run(started, keeps_events=is_streamed)
        if is_streamed:
            return EventStream(EventReplay(run, -1), keepalive_s, headers)
        return Response(started.row.body, headers=dict(headers), media_type="application/json")

    @router.post("/v1/responses/input_tokens", response_model=None, openapi_extra=body_docs(ResponseBody))
    async def count_input_tokens(request: Request) -> dict[str, object]:
        """The number of tokens of a prompt; nothing is generated."""
        return {"object": "response.input_tokens", "input_tokens": await responses.count(request)}

    _add_stored_routes(router, responses, keepalive_s)
    return router


def _add_stored_routes(router: APIRouter, responses: Responses, keepalive_s: float) -> None:
    """The routes of responses that exist already."""

    @router.get("/v1/responses/{response_id}", response_model=None)
    async def retrieve_response(request: Request, response_id: str) -> Response:
        """A stored response, or with `stream=true` its events after `starting_after`."""
        row, query = await responses.find(response_id), request.query_params
        run = responses.running(response_id)
        if query.get("stream", "false").lower() not in ("true", "1"):
            return _json(run.body() if run is not None else row.body)
        after = _number(query, "starting_after", -1, -1, 2**31)
        if run is not None and run.keeps_events:
            return EventStream(EventReplay(run, after), keepalive_s)
        kept = [] if responses.store is None else await responses.store.events(response_id, -1)
        if not kept:
            raise InvalidRequestError(
                "only responses that were created with background and stream can be streamed again", param="stream"
            )
        return EventStream(EventReplay([event for _, event in kept], after), keepalive_s)

    @router.delete("/v1/responses/{response_id}", response_model=None)
    async def delete_response(response_id: str) -> dict[str, object]:
        """Remove a stored response. Responses that continue it cannot be continued any more."""
        await responses.delete(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @router.post("/v1/responses/{response_id}/cancel", response_model=None)
    async def cancel_response(response_id: str) -> Response:
        """End a background response. One that has ended is returned unchanged."""
        row = await responses.find(response_id)
        if not row.is_background:
            raise InvalidRequestError("Cannot cancel a synchronous response.", param="response_id")
        run = responses.running(response_id)
        if run is None:
            return _json(row.body)
        await run.cancel()
        return _json(run.body())

    @router.get("/v1/responses/{response_id}/input_items", response_model=None)
    async def list_input_items(request: Request, response_id: str) -> Response:
        """The items of the response's own input, without those of the responses before it."""
        row = await responses.find(response_id)
        return _json(_item_page(orjson.loads(row.input), request.query_params))


def _item_page(items: list[dict[str, object]], query: Mapping[str, str]) -> bytes:
    """One page of a list of items. Raises InvalidRequestError for a wrong query."""
    order, limit = query.get("order", "desc"), _number(query, "limit", _LISTED, 1, _MAX_LISTED)
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order: must be asc or desc", param="order")
    ordered = items if order == "asc" else items[::-1]
    if (after := query.get("after")) is not None:
        places = [i for i, item in enumerate(ordered) if item.get("id") == after]
        if not places:
            raise InvalidRequestError(f"after: there is no item '{after[:100]}'", param="after")
        ordered = ordered[places[0] + 1 :]
    page = ordered[:limit]
    ends = (page[0].get("id"), page[-1].get("id")) if page else (None, None)
    return orjson.dumps(
        {
            "object": "list",
            "data": page,
            "first_id": ends[0],
            "last_id": ends[1],
            "has_more": len(ordered) > limit,
        }
    )


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """An integer of the query. Raises InvalidRequestError."""
    text = query.get(name)
    if text is None:
        return default
    try:
        number = int(text[:20])
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise InvalidRequestError(f"{name}: must be an integer from {least} to {most}", param=name)
    return number


def _json(document: bytes) -> Response:
    return Response(document, media_type="application/json")
