"""What all request bodies share, the fields of both completion APIs, and unknown and unsupported fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from llamafast.errors import InvalidRequestError
from llamafast.server.answers.options import AnswerOptions
from llamafast.server.schemas.cache import CacheFields
from llamafast.server.schemas.sampling import SamplingFields
from llamafast.server.schemas.structured import StructuredFields

# Known fields that are not supported. Only the listed values are accepted: they ask for nothing.
NOT_YET: Mapping[str, tuple[object, ...]] = {
    "guided_whitespace_pattern": (),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "samplers": ([],),
    "min_keep": (0,),
    "n_probs": (0,),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "truncate_prompt_tokens": (),
    "thinking_token_budget": (),
    "lora": ([],),
    "lora_path": (),
    "return_hidden_states": (False,),
    "return_token_ids": (False,),
}

# llama-server's names for vLLM's fields.
SPECIAL_ALIASES: Mapping[str, str] = {"add_special": "add_special_tokens"}

# Known fields that are accepted with any value. They have no effect on the answer of a local server.
NO_OP: frozenset[str] = frozenset(
    {
        "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prompt_cache_options", "request_id", "include_reasoning", "separate_reasoning", "stream_reasoning",
        "no_stop_trim", "spaces_between_special_tokens", "guided_decoding_backend",
    }
)  # fmt: skip

BodyT = TypeVar("BodyT", bound="JsonBody")


class StreamOptions(BaseModel):
    """Options of a stream.

    include_usage: OpenAI's: the last chunk contains the usage.
    include_obfuscation: OpenAI's, without effect.
    continuous_usage_stats: vLLM's: every chunk contains the usage so far.
    """

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonBody(BaseModel):
    """A request body.

    not_yet, no_op: the policy for known fields of the API that have no attribute here.
    aliases: other names of fields.
    """

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    no_op: ClassVar[frozenset[str]] = frozenset()
    aliases: ClassVar[Mapping[str, str]] = {}

    model: str | None = Field(
        None, description="Name of the model, one of /v1/models or of its patterns. Absent: the first model."
    )

    # The alias that this client used for a field, by the engine's name of the field.
    _names_given: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def param_names(self) -> dict[str, str]:
        """The request's names of fields, by the engine's names, if they differ."""
        return self._names_given

    def check(self) -> None:
        """Check the rules that involve several fields. Raises InvalidRequestError."""


class RequestBody(JsonBody, SamplingFields, StructuredFields, CacheFields):
    """The fields of both completion APIs: sampling, constraints, cache, and the fields below."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = NOT_YET
    no_op: ClassVar[frozenset[str]] = NO_OP
    aliases: ClassVar[Mapping[str, str]] = SamplingFields.aliases

    stream: bool = Field(False, description="Send the answer as server-sent events while it is generated.")
    stream_options: StreamOptions | None = Field(
        None, description="include_usage: the last chunk has the usage; continuous_usage_stats: every chunk has it."
    )
    skip_special_tokens: bool = Field(True, description="false: the answer contains the texts of control tokens.")

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk contains the usage so far."""
        options = self.stream_options
        return options is not None and bool(options.include_usage and options.continuous_usage_stats)

    def options(self, num_logprobs: int | None, prompt_tokens: int, constraint_param: str | None) -> AnswerOptions:
        """The options of this request for the formatter. constraint_param: the field that constrains the output."""
        usage = (self.include_usage, self.continuous_usage)
        prompt = (self.prompt_logprobs, prompt_tokens)
        return AnswerOptions(*usage, num_logprobs, *prompt, constraint_param, self.return_cache_info)

    def check(self) -> None:
        """Check rules that involve several fields. Raises InvalidRequestError."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options needs stream: true", param="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequestError("prompt_logprobs cannot be streamed", param="prompt_logprobs")


def parse_body(document: object, model: type[BodyT]) -> tuple[BodyT, list[str]]:
    """Validate a JSON document. Returns the body and the names of its unknown fields. null counts as absent.

    Raises InvalidRequestError; its param is the path of the field (`messages[0].content`).
    """
    if not isinstance(document, dict):
        raise InvalidRequestError("the request body must be a JSON object")
    fields: dict[str, object] = {name: value for name, value in document.items() if value is not None}
    for name, value in fields.items():
        if name in model.not_yet and value not in model.not_yet[name]:
            raise InvalidRequestError(f"'{name}' is not supported yet", param=name, code="unsupported_parameter")
    renamed = _without_aliases(fields, model.aliases)
    try:
        body = model.model_validate(fields)
    except ValidationError as exc:
        raise _readable(exc, fields, renamed) from exc
    body._names_given = renamed
    body.check()
    extra = body.model_extra or {}
    return body, [name for name in extra if name not in model.not_yet and name not in model.no_op]


def _without_aliases(fields: dict[str, object], aliases: Mapping[str, str]) -> dict[str, str]:
    """Rename the aliases in `fields`. Returns {name: alias}. IN/OUT fields. Raises InvalidRequestError."""
    renamed: dict[str, str] = {}
    for alias in aliases.keys() & fields.keys():
        name, value = aliases[alias], fields.pop(alias)
        if name not in fields:
            renamed[name] = alias
        elif fields[name] != value:
            raise InvalidRequestError(
                f"'{alias}' and '{name}' are names of the same setting and have different values", param=alias
            )
        fields[name] = value
    return renamed


def _readable(exc: ValidationError, document: Mapping[str, object], renamed: Mapping[str, str]) -> InvalidRequestError:
    """One error for the first wrong field. For a union it reports the alternative with the deepest path."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    first = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    places = [_path(error["loc"], document, missing=error["type"] == "missing") for error in first]
    depth = max(len(place) for place in places)
    path = next(place for place in places if len(place) == depth)
    messages = dict.fromkeys(error["msg"] for error, place in zip(first, places, strict=True) if place == path)
    path = (renamed.get(str(path[0]), path[0]), *path[1:]) if path else path
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return InvalidRequestError(f"{param}: {'; or: '.join(messages)}", param=param or None)


def _path(loc: tuple[int | str, ...], document: object, *, missing: bool) -> tuple[int | str, ...]:
    """The path in the document: `loc` without the names of union members. missing: the last part is absent."""
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
