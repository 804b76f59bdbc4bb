"""The fields that both completion APIs share, and the policy for all the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamafast.errors import InvalidRequestError
from llamafast.request import SamplingParams

# Known fields that cannot be honoured yet, each with the values that ask for nothing.
NOT_YET: Mapping[str, tuple[object, ...]] = {
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": ("",),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "prompt_logprobs": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "truncate_prompt_tokens": (),
    "thinking_token_budget": (),
    "priority": (0,),
    "cache_salt": (),
    "lora": ([],),
    "lora_path": (),
    "return_hidden_states": (False,),
    "return_token_ids": (False,),
}

# Known fields that change nothing in the answer of a local server.
NO_OP: frozenset[str] = frozenset(
    {
        "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prompt_cache_options", "request_id", "include_reasoning", "separate_reasoning", "stream_reasoning",
        "no_stop_trim", "spaces_between_special_tokens",
    }
)  # fmt: skip

# Beyond this, one answer would weigh megabytes. OpenAI's limit for chats.
MAX_LOGPROBS = 20

BodyT = TypeVar("BodyT", bound="RequestBody")


class StreamOptions(BaseModel):
    """OpenAI's stream options; continuous_usage_stats is vLLM's: usage on every chunk."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class RequestBody(BaseModel):
    """Types only; the ranges of sampling values are checked by the engine, which names the field."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = NOT_YET
    no_op: ClassVar[frozenset[str]] = NO_OP

    model: str | None = Field(None, description="The served model's alias; may be left out.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, description="Choices per prompt.")
    temperature: float = Field(1.0, description="0 takes the most likely token.")
    top_p: float = 1.0
    top_k: int = Field(0, description="0 or -1 switches the filter off.")
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[str, float] = Field(default_factory=dict, description="Token id to what is added to its logit.")
    seed: int | None = None
    stop: str | list[str] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list)
    min_tokens: int = 0
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk carries the usage so far."""
        options = self.stream_options
        return options is not None and bool(options.include_usage and options.continuous_usage_stats)

    def check(self) -> None:
        """Rules that no single type shows. Raises InvalidRequestError."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options needs stream: true", param="stream_options")

    def sampling(self, *, max_tokens: int | None, logprobs: int | None, best_of: int | None = None) -> SamplingParams:
        """The sampling settings of every prompt in this body. Raises InvalidRequestError."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=tuple((_token_id(key), bias) for key, bias in self.logit_bias.items()),
            seed=self.seed,
            n=self.n,
            best_of=best_of,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            include_stop=self.include_stop_str_in_output,
        )


def parse_body(document: object, model: type[BodyT]) -> tuple[BodyT, list[str]]:
    """Validate a JSON document; the body and the names of unknown fields. null counts as absent.

    Raises InvalidRequestError, whose param is the path of the field (`messages[0].content`).
    """
    if not isinstance(document, dict):
        raise InvalidRequestError("the request body must be a JSON object")
    fields: dict[str, object] = {name: value for name, value in document.items() if value is not None}
    for name, value in fields.items():
        if name in model.not_yet and value not in model.not_yet[name]:
            raise InvalidRequestError(f"'{name}' is not supported yet", param=name, code="unsupported_parameter")
    try:
        body = model.model_validate(fields)
    except ValidationError as exc:
        raise _readable(exc, fields) from exc
    body.check()
    extra = body.model_extra or {}
    return body, [name for name in extra if name not in model.not_yet and name not in model.no_op]


def _token_id(key: str) -> int:
    try:
        return int(key)
    except ValueError as exc:
        raise InvalidRequestError(f"logit_bias: '{key[:32]}' is not a token id", param="logit_bias") from exc


def _readable(exc: ValidationError, document: Mapping[str, object]) -> InvalidRequestError:
    """One error for the first wrong field. A union reports each alternative: the deepest place tells most."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    first = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    places = [_path(error["loc"], document, missing=error["type"] == "missing") for error in first]
    depth = max(len(place) for place in places)
    path = next(place for place in places if len(place) == depth)
    messages = dict.fromkeys(error["msg"] for error, place in zip(first, places, strict=True) if place == path)
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return InvalidRequestError(f"{param}: {'; or: '.join(messages)}", param=param or None)


def _path(loc: tuple[int | str, ...], document: object, *, missing: bool) -> tuple[int | str, ...]:
    """`loc` without the names of union members, which are no steps into the document. A missing field is its last."""
    path: list[int | str] = []
    here = document
    for part in loc[:-1] if missing else loc:
        if isinstance(here, list):
            if not isinstance(part, int):
                continue
            here = here[part]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        else:
            continue
        path.append(part)
    return (*path, loc[-1]) if missing else tuple(path)
