"""The body of POST /v1/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field
from pydantic.config import JsonDict

from llamafast import caps
from llamafast.caps import at_most
from llamafast.errors import InvalidRequestError
from llamafast.server.schemas.common import NO_OP, JsonBody

# Texts and token ids that follow one another.
Pieces: TypeAlias = list[str | int]

_PIECES: JsonDict = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}
_INPUT_SCHEMA: JsonDict = {
    "anyOf": [{"type": "string"}, _PIECES, {"type": "array", "items": {"anyOf": [_PIECES, {"type": "object"}]}}]
}
_INT32 = 2**31


class EmbeddingsBody(JsonBody):
    """OpenAI's fields, vLLM's and TEI's truncation, and llama-server's forms of inputs."""

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = {"embd_normalize": (2,), "messages": (), "image": ()}
    no_op: ClassVar[frozenset[str]] = NO_OP
    aliases: ClassVar[Mapping[str, str]] = {"content": "input"}

    input: object = Field(
        ...,
        description="A text, token ids, or a list of either; texts and ids may be mixed in one input. Also `content`.",
        json_schema_extra=_INPUT_SCHEMA,
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the bytes of little-endian float32 numbers."
    )
    dimensions: int | None = Field(
        None, ge=1, lt=_INT32, description="Numbers kept of each vector; what is kept gets length 1 again."
    )
    truncate: bool = Field(False, description="Cut inputs that are too long, instead of refusing them (TEI's).")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, lt=_INT32, description="Cut inputs to this many tokens; -1: to what the model takes (vLLM's)."
    )
    truncation_side: Literal["left", "right"] = Field("right", description="The side where an input is cut.")
    prompt_name: str | None = Field(
        None, description="The text of model.prompts to put before each text: `query`, for example."
    )

    def check(self) -> None:
        """Check the rules that involve several fields. Raises InvalidRequestError."""
        super().check()
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequestError("truncate_prompt_tokens must be -1, or 1 or more", param="truncate_prompt_tokens")

    def inputs(self) -> list[Pieces]:
        """The inputs, each a list of texts and token ids. Raises InvalidRequestError."""
        given = self.input
        if not isinstance(given, list):
            return [_pieces(given, "input")]
        if not given:
            raise InvalidRequestError("input is empty", param="input")
        if set(map(type, given)) <= {str, int} and not set(map(type, given)) <= {str}:
            return [_pieces(given, "input")]
        at_most("inputs", len(given), caps.MAX_EMBEDDING_INPUTS, "input")
        return [_pieces(each, f"input[{i}]") for i, each in enumerate(given)]


def _pieces(given: object, param: str) -> Pieces:
    """One input. Raises InvalidRequestError."""
    if isinstance(given, str):
        return [given]
    # The exact type: True is an int in Python, but no token id.
    if isinstance(given, list) and set(map(type, given)) <= {str, int}:
        if not given:
            raise InvalidRequestError(f"{param} is empty", param=param)
        return given
    if isinstance(given, dict):
        text = given.get("prompt_string")
        if isinstance(text, str):
            return [text]
        parts = given.get("content")
        if isinstance(parts, list) and parts:
            return ["".join(_text(part, f"{param}.content[{i}]") for i, part in enumerate(parts))]
    raise InvalidRequestError(
        f"{param} must be a string, a list of token ids, a list of either, or an object with `prompt_string` or with "
        "text parts in `content`",
        param=param,
    )


def _text(part: object, param: str) -> str:
    """The text of a content part. Raises InvalidRequestError."""
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise InvalidRequestError(f"{param} must be an object with type `text` and a text", param=param)
    return text
