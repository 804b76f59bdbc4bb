"""POST /v1/embeddings."""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request, Response

from llamafast import caps
from llamafast.caps import at_most
from llamafast.engine.async_encoder import AsyncEncoder
from llamafast.engine.embedding import EmbeddingOutput, EmbeddingRequest
from llamafast.engine.output_stream import OutputStream
from llamafast.errors import ContextLengthError, InvalidRequestError, ShuttingDownError
from llamafast.server.answers.embeddings import embeddings_answer
from llamafast.server.openapi import body_docs
from llamafast.server.receiving.leaving import while_connected
from llamafast.server.receiving.preparation import checkpoint
from llamafast.server.schemas.embeddings import EmbeddingsBody, Pieces
from llamafast.server.served_model import ServedModel
from llamafast.server.state import ServerState
from llamafast.tokenizer import Tokenizer

# A text with more characters per token of the limit is refused, or cut, before it is tokenized: a list of millions of
# token ids would hold up all threads.
_MAX_CHARS_PER_TOKEN = 64

# Answers of up to so many bytes of vectors are written on the event loop; larger ones, in a thread.
_INLINE_BYTES = 200_000


def embeddings_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["embeddings"])

    @router.post("/v1/embeddings", response_model=None, openapi_extra=body_docs(EmbeddingsBody))
    async def create_embeddings(request: Request) -> Response:
        """A vector of each input."""
        ready = await state.prepare(request, EmbeddingsBody, _ready)
        stream = ready.encoder.submit(await ready.encoder.prepare(ready.request))
        output = await while_connected(request.receive, _last(stream), stream.abort)
        num_tokens = ready.request.num_tokens
        write = partial(
            embeddings_answer,
            output.vectors,
            output.n_dims,
            encoding_format=ready.encoding_format,
            model=ready.model,
            usage={"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        )
        is_small = len(output.vectors) <= _INLINE_BYTES
        content = write() if is_small else await state.preparation.run(request.receive, len(output.vectors), write)
        return Response(content, media_type="application/json")

    return router


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a body asks for.

    encoder: makes the vectors.
    request: the inputs as token ids.
    encoding_format: how the vectors are written.
    model: the name of the model to show.
    """

    encoder: AsyncEncoder
    request: EmbeddingRequest
    encoding_format: str
    model: str


def _ready(served: ServedModel, body: EmbeddingsBody) -> _Ready:
    encoder = served.embedder
    limit = _limit(body, encoder.max_seq_len)
    prefix = _prefix(served, body.prompt_name)
    inputs: list[array[int]] = []
    num_tokens = 0
    given = body.inputs()
    for i, pieces in enumerate(given):
        checkpoint()
        param = "input" if len(given) == 1 else f"input[{i}]"
        pieces = _without_excess(pieces, encoder.max_seq_len, limit, body.truncation_side, param)
        try:
            token_ids = array("i", _encode(encoder.tokenizer, pieces, prefix))
        except OverflowError as exc:
            raise InvalidRequestError(f"{param}: a token id is out of range", param=param) from exc
        if limit is not None and len(token_ids) > limit:
            token_ids = _cut(encoder.tokenizer, token_ids, limit, body.truncation_side)
        if len(token_ids) > encoder.max_seq_len:
            raise ContextLengthError(
                f"{param} is too large: it has {len(token_ids)} tokens, the model takes {encoder.max_seq_len}",
                param=param,
            )
        num_tokens += len(token_ids)
        at_most("tokens of all inputs", num_tokens, caps.MAX_EMBEDDING_TOKENS, "input")
        inputs.append(token_ids)
    request = EmbeddingRequest(f"embd-{secrets.token_hex(12)}", tuple(inputs), body.dimensions)
    return _Ready(encoder, request, body.encoding_format, served.names.shown(body.model))


def _limit(body: EmbeddingsBody, max_tokens: int) -> int | None:
    """The number of tokens to which inputs are cut; None: they are not cut."""
    asked = body.truncate_prompt_tokens
    if asked is None:
        return max_tokens if body.truncate else None
    if asked > max_tokens:
        raise InvalidRequestError(
            f"truncate_prompt_tokens is {asked}; the model takes {max_tokens}", param="truncate_prompt_tokens"
        )
    return max_tokens if asked == -1 else asked


def _prefix(served: ServedModel, name: str | None) -> str:
    """The configured text of that name. Raises InvalidRequestError."""
    if name is None:
        return ""
    prefix = served.prompts.get(name)
    if prefix is None:
        known = ", ".join(sorted(served.prompts)) or "no prompts"
        raise InvalidRequestError(f"prompt_name: the model has {known}", param="prompt_name")
    return prefix


def _without_excess(pieces: Pieces, max_tokens: int, limit: int | None, side: str, param: str) -> Pieces:
    """The pieces of one input, each text cut if the input is cut to `limit` tokens. Raises ContextLengthError."""
    most = _MAX_CHARS_PER_TOKEN * max_tokens
    for piece in pieces:
        if limit is None and isinstance(piece, str) and len(piece) > most:
            raise ContextLengthError(
                f"{param} is too large: it has {len(piece)} characters, the model takes {max_tokens} tokens",
                param=param,
            )
    return [piece if isinstance(piece, int) else piece[-most:] if side == "left" else piece[:most] for piece in pieces]


def _encode(tokenizer: Tokenizer, pieces: Pieces, prefix: str) -> list[int]:
    """Token ids of one input. The first piece gets the special tokens around a text, if it is a text."""
    token_ids: list[int] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, int):
            token_ids.append(piece)
        else:
            text = prefix + piece if i == 0 else piece
            token_ids += tokenizer.encode(text, add_special=i == 0, parse_special=False)
    return token_ids


def _cut(tokenizer: Tokenizer, token_ids: array[int], limit: int, side: str) -> array[int]:
    """The first or last tokens of an input, so many that with the special tokens around it there are `limit`."""
    frame = tokenizer.encode("", add_special=True, parse_special=False)
    num_before = len(frame) // 2 if list(token_ids[: len(frame) // 2]) == frame[: len(frame) // 2] else 0
    num_after = len(frame) - len(frame) // 2
    if num_after and list(token_ids[-num_after:]) != frame[-num_after:]:
        num_after = 0
    if num_before + num_after >= limit:
        return token_ids[:limit]
    if side == "left":
        return token_ids[:num_before] + token_ids[len(token_ids) - limit + num_before :]
    return token_ids[: limit - num_after] + token_ids[len(token_ids) - num_after :]


async def _last(stream: OutputStream[EmbeddingOutput]) -> EmbeddingOutput:
    """The output of a request. Raises its error, and ShuttingDownError if it was aborted."""
    async for outputs in stream:
        for output in outputs:
            if output.error is not None:
                raise output.error
            if output.vectors:
                return output
    raise ShuttingDownError("the server is shutting down")
