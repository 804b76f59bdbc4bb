"""POST /v1/completions."""

from __future__ import annotations

from array import array

from fastapi import APIRouter, Request, Response

from llamafast.errors import InvalidRequestError
from llamafast.request import Request as EngineRequest
from llamafast.server.deps import ServerState, off_loop
from llamafast.server.formats.common import Header, Options
from llamafast.server.formats.completions import CompletionFormatter
from llamafast.server.openapi import body_docs
from llamafast.server.schemas.completions import CompletionBody
from llamafast.server.sse import EventStream, whole_answer

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
        params = state.sampling(body, max_tokens=body.max_tokens, logprobs=body.logprobs, best_of=body.best_of)
        cost = sum(_PROMPT_COST + len(prompt) for prompt in prompts) + len(body.suffix or "")
        token_ids = await off_loop(cost, lambda: _encode_all(state, prompts, body.suffix))
        header = Header.new(CompletionFormatter.id_prefix, state.settings.alias, state.fingerprint)
        requests = [
            EngineRequest(f"{header.id}-{i}", ids, params, skip_special=body.skip_special_tokens)
            for i, ids in enumerate(token_ids)
        ]
        outputs = await state.submit(requests, params.n, body.param_names)
        options = Options(
            body.include_usage, body.continuous_usage, body.logprobs is not None, sum(map(len, token_ids))
        )
        echo = _echoes(state, body, prompts) if body.echo else ()
        formatter = CompletionFormatter(header, len(prompts) * params.n, options, echo)
        if body.stream:
            return EventStream(outputs, formatter, state.settings.keepalive_s)
        return await whole_answer(request, outputs, formatter)

    return router


def _encode_all(state: ServerState, prompts: list[str | list[int]], suffix: str | None) -> list[array[int]]:
    """Token ids of each prompt. Raises InvalidRequestError for an empty one, or an id no token can have."""
    encoded: list[array[int]] = []
    for i, prompt in enumerate(prompts):
        param = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        try:
            ids = array("i", _encode(state, prompt, suffix))
        except OverflowError as exc:
            raise InvalidRequestError(f"{param}: a token id is out of range", param=param) from exc
        if not ids:
            raise InvalidRequestError(f"{param}: the prompt is empty", param=param)
        encoded.append(ids)
    return encoded


def _encode(state: ServerState, prompt: str | list[int], suffix: str | None) -> list[int]:
    tokenizer = state.engine.tokenizer
    if not suffix:
        return prompt if isinstance(prompt, list) else tokenizer.encode(prompt, add_special=True, parse_special=True)
    if tokenizer.fim_ids is None:
        raise InvalidRequestError("this model has no fill-in-the-middle tokens, which suffix needs", param="suffix")
    before, after, middle = tokenizer.fim_ids
    start = [tokenizer.bos_id] if tokenizer.add_bos else []
    head = prompt if isinstance(prompt, list) else tokenizer.encode(prompt, add_special=False, parse_special=True)
    tail = tokenizer.encode(suffix, add_special=False, parse_special=True)
    return [*start, before, *head, after, *tail, middle]


def _echoes(state: ServerState, body: CompletionBody, prompts: list[str | list[int]]) -> list[str]:
    """Per choice, the text of its prompt. The engine has taken the token ids, so all of them exist."""
    decode = state.engine.tokenizer.decode
    texts = [p if isinstance(p, str) else decode(p, skip_special=body.skip_special_tokens) for p in prompts]
    return [text for text in texts for _ in range(body.n)]
