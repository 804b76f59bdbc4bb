"""Turns a ChatRequest into the engine's request and the options for reading the answer. Every chat API calls it.

The work has two steps. draft_chat depends only on the request and the model, and may run in a thread. prepare_chat
runs on the event loop and waits for the compilers. An API that only renders a prompt or counts its tokens calls
chat_prompt instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.types import Receive

from llamafast.engine.validation import check_sizes
from llamafast.request import Request as EngineRequest
from llamafast.request import SamplingParams
from llamafast.server.chat.choice import ReadOptions
from llamafast.server.chat.constraint import compile_answer, is_constrained, reasoning_budget
from llamafast.server.chat.prompt import ChatPrompt, chat_prompt
from llamafast.server.chat.request import ChatRequest
from llamafast.server.constraint import CompiledConstraint
from llamafast.server.media import check_kinds
from llamafast.server.receiving.leaving import while_connected
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerState
from llamafast.tokenizer import StopMatcher


@dataclass(frozen=True, slots=True)
class ChatDraft:
    """A rendered and tokenized chat, without its compiled constraint.

    served: the model.
    request: the conversation and its settings.
    params: the sampling settings, without the constraint and the limit on the reasoning.
    prompt: the conversation in text and tokens.
    stops: keeps the automaton of the stop strings in its cache until the answer uses it.
    """

    served: ServedModel
    request: ChatRequest
    params: SamplingParams
    prompt: ChatPrompt
    stops: StopMatcher


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A chat that is ready for the engine.

    engine_request: the engine's request: the prompt, its places, the sampling settings and the grammar.
    prompt: the conversation in text and tokens.
    constraint: the compiled constraint on the answer, with its warnings.
    warnings: one text for the client for each part of the request that the answer will not follow.
    constraint_param: the client's field that an error names if the constraint fails during the answer. None: no
    constraint.
    read_options: how the text of the choices is read.
    """

    engine_request: EngineRequest
    prompt: ChatPrompt
    constraint: CompiledConstraint
    warnings: tuple[str, ...]
    constraint_param: str | None
    read_options: ReadOptions


def draft_chat(served: ServedModel, request: ChatRequest) -> ChatDraft:
    """Find the sampling settings, render the prompt and tokenize it. Raises InvalidRequestError."""
    tokenizer = served.engine.tokenizer
    check_media(served, request)
    params = request.sampling(tokenizer, served.defaults.sampling)
    check_sizes(params, tokenizer.n_vocab)
    return ChatDraft(served, request, params, chat_prompt(served, request), StopMatcher(params.stop))


def check_media(served: ServedModel, request: ChatRequest) -> None:
    """Refuse media that the model does not take. Raises InvalidRequestError, naming the client's field."""
    with request.names.in_errors():
        check_kinds(request.media, () if served.media is None else served.media.kinds)


async def with_media(served: ServedModel, request: ChatRequest, prompt: ChatPrompt, receive: Receive) -> ChatPrompt:
    """The prompt with the rows of the request's media. Raises InvalidRequestError and ClientDisconnect."""
    if served.media is None or not request.media:
        return prompt
    with request.names.in_errors():
        return prompt.with_media(await while_connected(receive, served.media.load(request.media)))


async def prepare_chat(state: ServerState, draft: ChatDraft, request_id: str, receive: Receive) -> PreparedChat:
    """Compile the constraint and build the engine's request.

    request_id: the id of the request in the engine.
    receive: ASGI's receive, which reports that the client disconnects. It is called only during long work.
    Raises InvalidRequestError, which names the client's field, CompilerBusyError, ClientDisconnect, ShuttingDownError.
    """
    served, request, params, prompt = draft.served, draft.request, draft.params, draft.prompt
    await state.resolve_breakers(receive, served, params)
    prompt = await with_media(served, request, prompt, receive)
    work = compile_answer(served, request, prompt)
    constraint = await (while_connected(receive, work) if is_constrained(request) else work)
    budget = reasoning_budget(served, request, prompt)
    engine_request = EngineRequest(
        request_id,
        prompt.token_ids,
        replace(params, structured=constraint.structured, reasoning_budget=budget),
        skip_special=request.skip_special,
        shown_ids=served.marker_ids,
        match_stops=False,
        grammar=constraint.grammar,
        places=prompt.places,
        media=prompt.spans,
        contents=prompt.contents,
        **request.cache,
    )
    return PreparedChat(
        engine_request,
        prompt,
        constraint,
        _warnings(served, request, constraint),
        _constraint_param(request, constraint),
        _read_options(draft),
    )


def _warnings(served: ServedModel, request: ChatRequest, constraint: CompiledConstraint) -> tuple[str, ...]:
    warnings = list(request.warnings)
    if request.tools.tools and not served.chat_format.reads_calls:
        param = request.names.of("tools")
        warnings.append(f"{param}: calls stay in the content, because this model's call format is not known")
    return (*warnings, *constraint.warnings)


def _constraint_param(request: ChatRequest, constraint: CompiledConstraint) -> str | None:
    if request.constraint is not None:
        return request.constraint.param
    return None if constraint.structured is None else request.names.of("tools")


def _read_options(draft: ChatDraft) -> ReadOptions:
    request, params, context = draft.request, draft.params, draft.prompt.answer_context
    chat_format, policy, tools = draft.served.chat_format, request.tools, request.tools.tools or None
    return ReadOptions(
        lambda: chat_format.parser(context, tools),
        stops=params.stop,
        include_stop=params.include_stop,
        min_tokens=params.min_tokens,
        calls=bool(tools),
        is_parallel=policy.is_parallel,
        is_legacy=policy.is_legacy,
        shows_reasoning=request.reasoning.is_shown,
    )
