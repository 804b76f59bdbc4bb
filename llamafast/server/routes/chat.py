"""POST /v1/chat/completions."""

from __future__ import annotations

from array import array
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from llamafast.errors import InvalidRequestError
from llamafast.parsing.reasoning import CLOSE, leaves_reasoning_open
from llamafast.parsing.template import TemplateError
from llamafast.request import Request as EngineRequest
from llamafast.server.deps import ServerState, off_loop
from llamafast.server.formats.chat import ChatFormatter
from llamafast.server.formats.common import Header
from llamafast.server.openapi import body_docs
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
        token_ids, is_reasoning = await off_loop(body.render_cost, lambda: _encode(state, body))
        end_id = None
        if constraint is not None and is_reasoning:
            end_id = end_of_reasoning(state.engine, constraint, CLOSE)
        compiled = await compile_constraint(state.engine, constraint, start_after=() if end_id is None else (end_id,))
        header = Header.new(ChatFormatter.id_prefix, state.settings.alias, state.fingerprint)
        prompt = EngineRequest(
            header.id,
            token_ids,
            replace(params, structured=compiled.structured),
            # The formatter must see the tag, even if it is a control token.
            skip_special=body.skip_special_tokens and (end_id is None or state.engine.tokenizer.is_text(end_id)),
            grammar=compiled.grammar,
        )
        outputs = await state.submit([prompt], params.n, body.param_names)
        options = body.options(body.num_logprobs, len(token_ids), constraint)
        formatter = ChatFormatter(header, params.n, options, end_id)
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s, compiled.headers)
        return await whole_answer(request, outputs, formatter, compiled.headers)

    return router


def _encode(state: ServerState, body: ChatBody) -> tuple[array[int], bool]:
    """The rendered conversation as token ids, and whether it leaves reasoning open. Raises InvalidRequestError."""
    template = state.settings.chat_template
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    generate = not body.continue_final_message if body.add_generation_prompt is None else body.add_generation_prompt
    messages = [message.for_template(i) for i, message in enumerate(body.messages)]
    try:
        text = template.render(
            messages,
            tools=None,
            documents=None,
            add_generation_prompt=generate,
            continue_final_message=body.continue_final_message,
            **body.template_kwargs,
        )
    except TemplateError as exc:
        raise InvalidRequestError(f"the chat template refuses these messages: {exc}", param="messages") from exc
    token_ids = array("i", state.engine.tokenizer.encode(text, add_special=False, parse_special=True))
    if not token_ids:
        raise InvalidRequestError("the messages render to an empty prompt", param="messages")
    continued = str(messages[-1]["content"]) if body.continue_final_message else None
    return token_ids, leaves_reasoning_open(text, continued)
