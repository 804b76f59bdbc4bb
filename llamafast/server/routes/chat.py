"""POST /v1/chat/completions."""

from __future__ import annotations

from array import array

from fastapi import APIRouter, Request, Response

from llamafast.errors import InvalidRequestError
from llamafast.parsing.template import TemplateError
from llamafast.request import Request as EngineRequest
from llamafast.server.deps import ServerState, off_loop
from llamafast.server.formats.chat import ChatFormatter
from llamafast.server.formats.common import Header
from llamafast.server.openapi import body_docs
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.sse import EventStream, whole_answer


def chat_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=body_docs(ChatBody))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation."""
        body = await state.read(request, ChatBody)
        params = state.sampling(body, max_tokens=body.token_limit, logprobs=body.num_logprobs)
        token_ids = await off_loop(body.render_cost, lambda: _encode(state, body))
        header = Header.new(ChatFormatter.id_prefix, state.settings.alias, state.fingerprint)
        prompt = EngineRequest(header.id, token_ids, params, skip_special=body.skip_special_tokens)
        outputs = await state.submit([prompt], params.n, body.param_names)
        options = body.options(body.num_logprobs, len(token_ids))
        formatter = ChatFormatter(header, params.n, options)
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s)
        return await whole_answer(request, outputs, formatter)

    return router


def _encode(state: ServerState, body: ChatBody) -> array[int]:
    """The rendered conversation as token ids. Raises InvalidRequestError."""
    template = state.settings.chat_template
    if template is None:
        raise InvalidRequestError("this model has no chat template: use /v1/completions", param="messages")
    generate = not body.continue_final_message if body.add_generation_prompt is None else body.add_generation_prompt
    try:
        text = template.render(
            [message.for_template(i) for i, message in enumerate(body.messages)],
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
    return token_ids
