"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from llamafast.parsing.reasoning import CLOSE
from llamafast.request import Request as EngineRequest
from llamafast.server.deps import ServerState, off_loop
from llamafast.server.formats.chat import ChatFormatter
from llamafast.server.formats.common import Header
from llamafast.server.openapi import body_docs
from llamafast.server.prompt import chat_prompt
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.sse import EventStream, whole_answer
from llamafast.server.structured import compile_constraint, end_of_reasoning


def chat_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=body_docs(ChatBody))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation."""
        body = await state.read(request, ChatBody)
        constraint = body.constraint()
        params = await state.sampling(body, max_tokens=body.token_limit, logprobs=body.num_logprobs)
        tokenizer = state.engine.tokenizer
        prompt = await off_loop(body.render_cost, lambda: chat_prompt(state, body))
        end_id = None
        if constraint is not None and prompt.is_reasoning:
            end_id = end_of_reasoning(state.engine, constraint, CLOSE)
        compiled = await compile_constraint(state.engine, constraint, start_after=() if end_id is None else (end_id,))
        header = Header.new(ChatFormatter.id_prefix, state.settings.alias, state.fingerprint)
        engine_request = EngineRequest(
            header.id,
            prompt.token_ids,
            replace(params, structured=compiled.structured),
            # The formatter must see the tag, even if it is a control token.
            skip_special=body.skip_special_tokens and (end_id is None or tokenizer.is_text(end_id)),
            grammar=compiled.grammar,
            boundaries=prompt.boundaries,
            **body.cache_settings,
        )
        outputs = await state.submit([engine_request], params.n, body.param_names)
        options = body.options(body.num_logprobs, len(prompt.token_ids), constraint)
        formatter = ChatFormatter(header, params.n, options, end_id)
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s, compiled.headers)
        return await whole_answer(request, outputs, formatter, compiled.headers)

    return router
