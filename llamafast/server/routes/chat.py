"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response

from llamafast.engine.validation import check_sizes
from llamafast.request import Request as EngineRequest
from llamafast.request import SamplingParams
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.options import AnswerHeader
from llamafast.server.chat.choice import Reading
from llamafast.server.chat.constraint import compile_rules, thinking_budget, warnings_of
from llamafast.server.chat.prompt import ChatPrompt, chat_prompt
from llamafast.server.delivery import streamed_answer, whole_answer
from llamafast.server.openapi import body_docs
from llamafast.server.receiving.leaving import while_connected
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.structured import Constraint
from llamafast.server.schemas.tools import ToolUse
from llamafast.server.state import ServerState
from llamafast.tokenizer import StopMatcher


def chat_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=body_docs(ChatBody))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation."""
        ready = await state.prepare(request, ChatBody, lambda body: _ready(state, body))
        body, use, params, prompt, constraint = ready.body, ready.use, ready.params, ready.prompt, ready.constraint
        await state.resolve_breakers(request, params)
        rules = compile_rules(state, constraint, use, prompt)
        takes_long = constraint is not None or use.is_enforced
        compiled = await (while_connected(request.receive, rules) if takes_long else rules)
        budget = thinking_budget(state, body, prompt)
        headers = warnings_of(state, use, compiled)
        header = AnswerHeader.new(ChatFormatter.id_prefix, state.settings.alias, state.fingerprint)
        engine_request = EngineRequest(
            header.id,
            prompt.token_ids,
            replace(params, structured=compiled.structured, reasoning_budget=budget),
            skip_special=body.skip_special_tokens,
            shown_ids=state.marker_ids,
            match_stops=False,
            grammar=compiled.grammar,
            boundaries=prompt.boundaries,
            **body.cache_settings,
        )
        outputs = await state.submit([engine_request], params.n, body.param_names)
        options = body.options(body.num_logprobs, len(prompt.token_ids), constraint)
        if constraint is None and compiled.structured is not None:
            options = replace(options, constraint="tools")
        formatter = ChatFormatter(header, params.n, options, _reading(state, body, use, prompt))
        if body.stream:
            return streamed_answer(outputs, formatter, state.settings.keepalive_s, headers)
        return await whole_answer(request, outputs, formatter, headers)

    return router


@dataclass(frozen=True, slots=True)
class _Ready:
    """A body, and what follows from it alone. stops: keeps their automaton in its cache until the answer takes it."""

    body: ChatBody
    use: ToolUse
    constraint: Constraint | None
    params: SamplingParams
    prompt: ChatPrompt
    stops: StopMatcher


def _ready(state: ServerState, body: ChatBody) -> _Ready:
    use = body.tool_use()
    constraint = body.constraint()
    params = state.sampling(body, max_tokens=body.token_limit, logprobs=body.num_logprobs)
    check_sizes(params, state.engine.tokenizer.n_vocab)
    prompt = chat_prompt(state, body, use.shown or None)
    return _Ready(body, use, constraint, params, prompt, StopMatcher(params.stop))


def _reading(state: ServerState, body: ChatBody, use: ToolUse, prompt: ChatPrompt) -> Reading:
    """How the answer's text is read."""
    chat_format, tools = state.chat_format, use.tools or None
    return Reading(
        lambda: chat_format.parser(prompt.text, tools),
        stops=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        include_stop=body.include_stop_str_in_output,
        min_tokens=body.min_tokens,
        calls=bool(use.tools),
        is_parallel=use.is_parallel,
        is_legacy=use.is_legacy,
        shows_reasoning=body.shows_reasoning,
    )
