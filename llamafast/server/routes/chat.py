"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.options import AnswerHeader
from llamafast.server.chat.prepare import ChatDraft, draft_chat, prepare_chat
from llamafast.server.constraint import warning_headers
from llamafast.server.delivery import streamed_answer, whole_answer
from llamafast.server.openapi import body_docs
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.served_model import Capability, ServedModel
from llamafast.server.state import ServerState
from llamafast.server.submission import submit


def chat_router(state: ServerState) -> APIRouter:
    """The router with this route. It serves the models of `state`."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=body_docs(ChatBody))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation."""
        body, drafted = await state.prepare(request, ChatBody, _draft)
        served = drafted.served
        header = AnswerHeader.new(ChatFormatter.id_prefix, served.names.shown(body.model), served.fingerprint)
        chat = await prepare_chat(state, drafted, header.id, request.receive)
        num_choices, names = drafted.params.n, drafted.request.names.fields
        outputs = await submit(served.engine, [chat.engine_request], num_choices, names)
        options = body.options(body.num_logprobs, len(chat.prompt.token_ids), chat.constraint_param)
        rows = chat.prompt.num_media_rows
        options = replace(options, image_tokens=rows.get("image", 0), audio_tokens=rows.get("audio", 0))
        formatter = ChatFormatter(header, num_choices, options, chat.read_options)
        headers = warning_headers(chat.warnings)
        if body.stream:
            return streamed_answer(outputs, formatter, state.settings.keepalive_s, headers)
        return await whole_answer(request, outputs, formatter, headers)

    return router


def _draft(served: ServedModel, body: ChatBody) -> tuple[ChatBody, ChatDraft]:
    if served.encoder is not None:
        served.require(Capability.CHAT)
    return body, draft_chat(served, body.to_chat_request())
