"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response

from llamafast.engine.validation import check_sizes
from llamafast.request import Request as EngineRequest
from llamafast.request import SamplingParams
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.formatter import Header
from llamafast.server.chat.choice import Reading
from llamafast.server.chat.constraint import compile_rules, thinking_budget, warnings_of
from llamafast.server.chat.prompt import ChatPrompt, chat_prompt
from llamafast.server.delivery import EventStream, whole_answer
from llamafast.server.openapi import body_docs
from llamafast.server.receiving.leaving import while_connected
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.structured import Constraint
from llamafast.server.schemas.tools import ToolUse
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerState
from llamafast.server.submission import submit
from llamafast.tokenizer import StopMatcher


def chat_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=body_docs(ChatBody))
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation."""
        ready = await state.prepare(request, ChatBody, _ready)
        served = ready.served
        body, use, params, prompt, constraint = ready.body, ready.use, ready.params, ready.prompt, ready.constraint
        await state.resolve_breakers(request.receive, served, params)
        rules = compile_rules(served, constraint, use, prompt)
        takes_long = constraint is not None or use.is_enforced
        compiled = await (while_connected(request.receive, rules) if takes_long else rules)
        budget = thinking_budget(served, body, prompt)
        headers = warnings_of(served, use, compiled)
        header = Header.new(ChatFormatter.id_prefix, served.names.shown(body.model), served.fingerprint)
        engine_request = EngineRequest(
            header.id,
            prompt.token_ids,
            replace(params, structured=compiled.structured, reasoning_budget=budget),
            skip_special=body.skip_special_tokens,
            shown_ids=served.marker_ids,
            match_stops=False,
            grammar=compiled.grammar,
            boundaries=prompt.boundaries,
            **body.cache_settings,
        )
        outputs = await submit(served.engine, [engine_request], params.n, body.param_names)
        options = body.options(body.num_logprobs, len(prompt.token_ids), constraint)
        if constraint is None and compiled.structured is not None:
            options = replace(options, constraint="tools")
        formatter = ChatFormatter(header, params.n, options, _reading(served, body, use, prompt))
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s, headers)
        return await whole_answer(request, outputs, formatter, headers)

    return router


@dataclass(frozen=True, slots=True)
class _Ready:
    """A body, its model, and what follows from both. stops: keeps their automaton in its cache for the answer."""

    served: ServedModel
    body: ChatBody
    use: ToolUse
    constraint: Constraint | None
    params: SamplingParams
    prompt: ChatPrompt
    stops: StopMatcher


def _ready(served: ServedModel, body: ChatBody) -> _Ready:
    use = body.tool_use()
    constraint = body.constraint()
    params = body.sampling(
        served.engine.tokenizer, served.defaults.sampling, max_tokens=body.token_limit, logprobs=body.num_logprobs
    )
    check_sizes(params, served.engine.tokenizer.n_vocab)
    prompt = chat_prompt(served, body, use.shown or None)
    return _Ready(served, body, use, constraint, params, prompt, StopMatcher(params.stop))


def _reading(served: ServedModel, body: ChatBody, use: ToolUse, prompt: ChatPrompt) -> Reading:
    """How the answer's text is read."""
    chat_format, tools = served.chat_format, use.tools or None
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
