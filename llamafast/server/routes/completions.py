"""POST /v1/completions."""

from __future__ import annotations

from array import array
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from llamafast.errors import InvalidRequestError
from llamafast.request import Request as EngineRequest
from llamafast.server.deps import ServerState, off_loop
from llamafast.server.formats.common import Header
from llamafast.server.formats.completions import CompletionFormatter, Echo
from llamafast.server.openapi import body_docs
from llamafast.server.schemas.completions import CompletionBody
from llamafast.server.sse import EventStream, whole_answer
from llamafast.server.structured import compile_constraint
from llamafast.tokenizer import Detokenizer, Tokenizer

# A prompt takes at least as long as this many characters of text.
_PROMPT_COST = 100


def completions_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["completions"])

    @router.post("/v1/completions", response_model=None, openapi_extra=body_docs(CompletionBody))
    async def create_completion(request: Request) -> Response:
        """Continue one prompt or several."""
        body = await state.read(request, CompletionBody)
        prompts = body.prompts()
        constraint = body.constraint()
        params = await state.sampling(body, max_tokens=body.max_tokens, logprobs=body.logprobs, best_of=body.best_of)
        cost = sum(_PROMPT_COST + len(prompt) for prompt in prompts) + len(body.suffix or "")
        token_ids = await off_loop(cost, lambda: _encode_all(state, prompts, body))
        compiled = await compile_constraint(state.engine, constraint)
        params = replace(params, structured=compiled.structured)
        header = Header.new(CompletionFormatter.id_prefix, state.settings.alias, state.fingerprint)
        requests = [
            EngineRequest(
                f"{header.id}-{i}",
                ids,
                params,
                skip_special=body.skip_special_tokens,
                grammar=compiled.grammar,
                **body.cache_settings,
            )
            for i, ids in enumerate(token_ids)
        ]
        outputs = await state.submit(requests, params.n, body.param_names)
        options = body.options(body.logprobs, sum(map(len, token_ids)), constraint)
        echo = await off_loop(cost, lambda: _echoes(state, body, prompts, token_ids)) if body.echo else ()
        formatter = CompletionFormatter(header, len(prompts) * params.n, options, echo)
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s, compiled.headers)
        return await whole_answer(request, outputs, formatter, compiled.headers)

    return router


def _encode_all(state: ServerState, prompts: list[str | list[int]], body: CompletionBody) -> list[array[int]]:
    """Token ids of each prompt. Raises InvalidRequestError for an empty one, or an id no token can have."""
    encoded: list[array[int]] = []
    for i, prompt in enumerate(prompts):
        param = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        try:
            ids = array("i", _encode(state, prompt, body))
        except OverflowError as exc:
            raise InvalidRequestError(f"{param}: a token id is out of range", param=param) from exc
        if not ids:
            raise InvalidRequestError(f"{param}: the prompt is empty", param=param)
        encoded.append(ids)
    return encoded


def _encode(state: ServerState, prompt: str | list[int], body: CompletionBody) -> list[int]:
    tokenizer, add_special = state.engine.tokenizer, body.add_special_tokens
    if not body.suffix:
        if isinstance(prompt, list):
            return prompt
        return tokenizer.encode(prompt, add_special=add_special, parse_special=True)
    if tokenizer.fim_ids is None:
        raise InvalidRequestError("this model has no fill-in-the-middle tokens, which suffix needs", param="suffix")
    before, after, middle = tokenizer.fim_ids
    start = [tokenizer.bos_id] if tokenizer.add_bos and add_special else []
    head = prompt if isinstance(prompt, list) else tokenizer.encode(prompt, add_special=False, parse_special=True)
    tail = tokenizer.encode(body.suffix, add_special=False, parse_special=True)
    return [*start, before, *head, after, *tail, middle]


def _echoes(
    state: ServerState, body: CompletionBody, prompts: list[str | list[int]], token_ids: list[array[int]]
) -> list[Echo]:
    """Per choice, its prompt. The engine has taken the token ids, so all of them exist."""
    echoes = [_echo(state.engine.tokenizer, body, *pair) for pair in zip(prompts, token_ids, strict=True)]
    return [echo for echo in echoes for _ in range(body.n)]


def _echo(tokenizer: Tokenizer, body: CompletionBody, prompt: str | list[int], token_ids: array[int]) -> Echo:
    skip_special = body.skip_special_tokens
    text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=skip_special)
    if body.logprobs is None:
        return Echo(text)
    # A control token that is written in a text has a place in it.
    detokenizer = Detokenizer(tokenizer, skip_special and not isinstance(prompt, str))
    starts = [0]
    for token_id in token_ids:
        starts.append(starts[-1] + len(detokenizer.add(token_id)))
    # What the vocabulary puts before a text, BOS or a space, has none.
    added = starts.pop() + len(detokenizer.flush()) - len(text)
    first = tokenizer.token_bytes_of(token_ids[0], special=True)
    return Echo(text, first, [min(max(0, start - added), len(text)) for start in starts])
