"""POST /v1/completions."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request, Response

from llamafast import caps
from llamafast.caps import at_most
from llamafast.engine.validation import check_sizes
from llamafast.errors import InvalidRequestError
from llamafast.request import Request as EngineRequest
from llamafast.request import SamplingParams
from llamafast.server.answers.completions import CompletionFormatter, Echo
from llamafast.server.answers.options import AnswerHeader
from llamafast.server.constraint import OutputConstraint, compile_constraint
from llamafast.server.delivery import streamed_answer, whole_answer
from llamafast.server.openapi import body_docs
from llamafast.server.receiving.leaving import while_connected
from llamafast.server.receiving.preparation import checkpoint
from llamafast.server.receiving.prompt_size import check_fits
from llamafast.server.schemas.completions import CompletionBody
from llamafast.server.served_model import Capability, ServedModel
from llamafast.server.state import ServerState
from llamafast.server.submission import submit
from llamafast.tokenizer import Detokenizer, StopMatcher, Tokenizer

# Up to this many prompt tokens, `echo` texts are made on the event loop. Above it they are made in a thread.
_INLINE_ECHO = 4000


def completions_router(state: ServerState) -> APIRouter:
    """The router with this route. It serves the models of `state`."""
    router = APIRouter(tags=["completions"])

    @router.post("/v1/completions", response_model=None, openapi_extra=body_docs(CompletionBody))
    async def create_completion(request: Request) -> Response:
        """Continue one or several prompts."""
        ready = await state.prepare(request, CompletionBody, _ready)
        served = ready.served
        body, prompts, token_ids, constraint = ready.body, ready.prompts, ready.token_ids, ready.constraint
        await state.resolve_breakers(request.receive, served, ready.params)
        work = compile_constraint(served.engine, constraint)
        compiled = await (work if constraint is None else while_connected(request.receive, work))
        params = replace(ready.params, structured=compiled.structured)
        header = AnswerHeader.new(CompletionFormatter.id_prefix, served.names.shown(body.model), served.fingerprint)
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
        outputs = await submit(served.engine, requests, params.n, body.param_names)
        num_tokens = sum(map(len, token_ids))
        options = body.options(body.logprobs, num_tokens, None if constraint is None else constraint.param)
        echo: Sequence[Echo] = ()
        if body.echo:
            make = partial(_echoes, served, body, prompts, token_ids)
            is_short = num_tokens + len(token_ids) <= _INLINE_ECHO
            echo = make() if is_short else await state.preparation.run(request.receive, num_tokens, make)
        formatter = CompletionFormatter(header, len(prompts) * params.n, options, echo)
        if body.stream:
            return streamed_answer(outputs, formatter, state.settings.keepalive_s, compiled.headers)
        return await whole_answer(request, outputs, formatter, compiled.headers)

    return router


@dataclass(frozen=True, slots=True)
class _Ready:
    """A validated and tokenized request.

    served: the model.
    body: the validated body.
    prompts: its prompts, as texts or as token ids.
    constraint: the constraint on the output; None for none.
    params: the sampling settings.
    token_ids: the token ids of each prompt.
    stops: keeps the automaton of the stop strings in its cache until the engine uses it.
    """

    served: ServedModel
    body: CompletionBody
    prompts: list[str | list[int]]
    constraint: OutputConstraint | None
    params: SamplingParams
    token_ids: list[array[int]]
    stops: StopMatcher


def _ready(served: ServedModel, body: CompletionBody) -> _Ready:
    served.require(Capability.COMPLETION)
    prompts = body.prompts()
    at_most("prompts", len(prompts), caps.MAX_PROMPTS, "prompt")
    constraint = body.constraint()
    params = body.sampling(
        served.engine.tokenizer,
        served.defaults.sampling,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        best_of=body.best_of,
    )
    check_sizes(params, served.engine.tokenizer.n_vocab, len(prompts))
    at_most("choices of all prompts", params.n * len(prompts), caps.MAX_CHOICES, "n")
    token_ids = _encode_all(served, prompts, body)
    if params.prompt_logprobs is not None:
        num_scores = params.n * sum(map(len, token_ids)) * (1 + params.prompt_logprobs)
        at_most("logprobs of prompts in all choices", num_scores, caps.MAX_PROMPT_LOGPROBS, "prompt_logprobs")
    return _Ready(served, body, prompts, constraint, params, token_ids, StopMatcher(params.stop))


def _encode_all(served: ServedModel, prompts: list[str | list[int]], body: CompletionBody) -> list[array[int]]:
    """Token ids of each prompt. Raises InvalidRequestError for an empty prompt and for an invalid token id."""
    encoded: list[array[int]] = []
    for i, prompt in enumerate(prompts):
        checkpoint()
        param = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        check_fits(served.engine, prompt, param)
        check_fits(served.engine, body.suffix or "", "suffix")
        try:
            ids = array("i", _encode(served, prompt, body))
        except OverflowError as exc:
            raise InvalidRequestError(f"{param}: a token id is out of range", param=param) from exc
        if not ids:
            raise InvalidRequestError(f"{param}: the prompt is empty", param=param)
        encoded.append(ids)
    return encoded


def _encode(served: ServedModel, prompt: str | list[int], body: CompletionBody) -> list[int]:
    tokenizer, add_special = served.engine.tokenizer, body.add_special_tokens
    if not body.suffix:
        if isinstance(prompt, list):
            return prompt
        return tokenizer.encode(prompt, add_special=add_special, parse_special=True)
    if tokenizer.fim_ids is None:
        raise InvalidRequestError("suffix: this model has no fill-in-the-middle tokens", param="suffix")
    before, after, middle = tokenizer.fim_ids
    start = [tokenizer.bos_id] if tokenizer.add_bos and add_special else []
    head = prompt if isinstance(prompt, list) else tokenizer.encode(prompt, add_special=False, parse_special=True)
    tail = tokenizer.encode(body.suffix, add_special=False, parse_special=True)
    return [*start, before, *head, after, *tail, middle]


def _echoes(
    served: ServedModel, body: CompletionBody, prompts: list[str | list[int]], token_ids: list[array[int]]
) -> list[Echo]:
    """The echoed prompt of each choice. The engine has accepted the token ids, so all of them exist."""
    echoes = [_echo(served.engine.tokenizer, body, *pair) for pair in zip(prompts, token_ids, strict=True)]
    return [echo for echo in echoes for _ in range(body.n)]


def _echo(tokenizer: Tokenizer, body: CompletionBody, prompt: str | list[int], token_ids: array[int]) -> Echo:
    skip_special = body.skip_special_tokens
    text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=skip_special)
    if body.logprobs is None:
        return Echo(text)
    # A prompt that was given as text includes the texts of its control tokens.
    detokenizer = Detokenizer(tokenizer, skip_special and not isinstance(prompt, str))
    starts = [0]
    for token_id in token_ids:
        starts.append(starts[-1] + len(detokenizer.add(token_id)))
    # A BOS or a space that the vocabulary adds before a text is not part of the text.
    added = starts.pop() + len(detokenizer.flush()) - len(text)
    first = tokenizer.token_bytes_of(token_ids[0], special=True)
    return Echo(text, first, [min(max(0, start - added), len(text)) for start in starts])
