"""Runs an engine over a list of prompts, in the caller's thread, and yields the outputs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence, Set
from typing import Protocol

from llamafast.engine.protocol import StepEngine
from llamafast.engine.sequence import RequestState
from llamafast.errors import EngineDeadError, InvalidRequestError
from llamafast.grammars.constraint import Grammar
from llamafast.request import Request, RequestOutput, SamplingParams
from llamafast.tokenizer import Tokenizer

Prompts = str | Sequence[int] | Sequence[str | Sequence[int]]
"""One prompt or several, each text or token ids."""


class TextEngine(StepEngine[Request, RequestState, RequestOutput], Protocol):
    """A StepEngine that generates text and can drop requests."""

    def check_free(self) -> None:
        """Raises EngineDeadError, and RuntimeError if the engine has requests."""

    def drop(self, request_ids: Set[str]) -> None:
        """End requests without an output. Unknown and finished ones are ignored."""


def make_requests(
    prompts: Prompts, params: SamplingParams, tokenizer: Tokenizer, *, grammar: Grammar | None, run: int
) -> list[Request]:
    """A request for each prompt. Raises InvalidRequestError.

    grammar: the compiled params.structured.
    run: number that makes the request ids unique.
    """
    return [
        Request(f"run {run} {i}", array("i", _token_ids(prompt, tokenizer)), params, grammar=grammar)
        for i, prompt in enumerate(_as_list(prompts))
    ]


def run_requests(engine: TextEngine, requests: list[Request]) -> Iterator[RequestOutput]:
    """Run requests until they end, and yield their outputs. The request ids become numbers: "0", "1", ...

    Raises EngineDeadError, and RuntimeError if the engine is busy when the iteration begins. Closing the iterator early
    ends the unfinished requests.
    """
    engine.check_free()
    numbers = {request.request_id: str(i) for i, request in enumerate(requests)}
    left = set(numbers)
    try:
        for request in requests:
            engine.add(engine.prepare(request))
        while left:
            if engine.death is not None:
                raise EngineDeadError(f"the engine is dead: {engine.death}")
            for output in engine.step():
                if output.is_last:
                    left.discard(output.request_id)
                output.request_id = numbers.get(output.request_id, output.request_id)
                yield output
    finally:
        engine.drop(left)


def _token_ids(prompt: str | Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special=True, parse_special=True)
    return prompt


def _as_list(prompts: Prompts) -> list[str | Sequence[int]]:
    if isinstance(prompts, str):
        return [prompts]
    several: list[str | Sequence[int]] = [prompt for prompt in prompts if not isinstance(prompt, int)]
    token_ids = [token_id for token_id in prompts if isinstance(token_id, int)]
    if several and token_ids:
        raise InvalidRequestError("prompts are either token ids or a list of prompts, not both", param="prompt")
    return several or [token_ids]
