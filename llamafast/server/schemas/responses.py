"""The body of POST /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from llamafast.errors import InvalidRequestError
from llamafast.responses.items import Conversation
from llamafast.responses.tools import ToolTable
from llamafast.server.chat.field_names import FieldNames
from llamafast.server.chat.request import ChatRequest
from llamafast.server.schemas.chat import ChatBody
from llamafast.server.schemas.common import NO_OP, NOT_YET, SPECIAL_ALIASES, RequestBody, parse_body
from llamafast.server.schemas.pieces import IN_PIECES
from llamafast.server.schemas.reasoning import BUDGET_ALIASES, ReasoningFields, ReasoningOptions
from llamafast.server.schemas.sampling import MAX_LOGPROBS, SamplingFields
from llamafast.server.schemas.structured import ResponseFormat

JsonObject = dict[str, object]

# Fields that this class reads itself. All others of the same name are given to the chat as they are.
_OWN = frozenset(
    {"input", "instructions", "tools", "tool_choice", "text", "top_logprobs", "max_output_tokens", "metadata", "stream",
     "stream_options", "reasoning", "model"}
)  # fmt: skip

# The client's names of fields of a chat.
_NAMES: Mapping[str, str] = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "messages": "input",
    "prompt": "input",
}

_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"

_MAX_PAIRS = 16
_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]
_Label = Annotated[str, StringConstraints(max_length=512)]


class ResponseReasoning(ReasoningOptions):
    """How the model reasons. Every effort that a client may send reaches the template."""

    summary: Literal["auto", "concise", "detailed"] | None = Field(None, description="Of no effect: no summaries.")
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(None, description="Older `summary`.")
    context: Literal["auto", "current_turn", "all_turns"] | None = Field(None, description="Left to the template.")
    mode: Literal["standard", "pro"] | None = Field(None, description="Of no effect.")


class TextOptions(BaseModel):
    """The text of the answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: ResponseFormat | None = Field(None, description="text, json_object, or json_schema with name and schema.")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="A variable of the template.")


class CacheOptions(BaseModel):
    """OpenAI's options of the prompt cache."""

    model_config = ConfigDict(strict=True, extra="allow")

    prewarm: bool | None = Field(None, description="true: as `generate: false`.")


@dataclass(frozen=True, slots=True)
class ReadInput:
    """The input of a response with its history.

    conversation: instructions, history and input as messages, each with its place in the body. table: the tools.
    """

    conversation: Conversation
    table: ToolTable

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, as texts for the client."""
        return (*self.table.warnings, *self.conversation.warnings)


class ResponseBody(ReasoningFields, RequestBody):
    """OpenAI's fields of the Responses API, and the extensions of the chat API."""

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **{name: values for name, values in NOT_YET.items() if name not in BUDGET_ALIASES},
        "conversation": (),
        "prompt": (),
        "context_management": ([],),
        "moderation": (),
        "n": (1,),
        "prompt_logprobs": (),
        "response_format": (),
    }
    no_op: ClassVar[frozenset[str]] = (
        NO_OP - {"store", "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options"}
    ) | {"background_options", "image", "client_metadata", "access_programs"}
    aliases: ClassVar[Mapping[str, str]] = {**SamplingFields.aliases, **BUDGET_ALIASES, **SPECIAL_ALIASES}

    input: str | Annotated[list[JsonObject], IN_PIECES] | None = Field(
        None, description="A text, or a list of items: messages, reasoning, calls and their outputs."
    )
    instructions: str | None = Field(
        None, description="The first message. A response that continues this one does not get it."
    )
    previous_response_id: str | None = Field(None, description="The stored response that this one continues.")
    store: bool = Field(True, description="Keep the response, so that it can be read and continued.")
    background: bool = Field(False, description="Answer at once and generate on; read the response by its id.")
    generate: bool = Field(True, description="false: compute the prompt into the cache and answer without output.")
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        description="The most tokens of the answer, its reasoning included; absent: up to the context's end.",
    )
    max_tool_calls: int | None = Field(None, ge=1, description="Of hosted tools, so of no effect.")
    tools: Annotated[list[JsonObject], IN_PIECES] = Field(
        default_factory=list,
        description="function, custom and namespace. Tools that OpenAI runs are left out, with a Warning header.",
    )
    tool_choice: str | JsonObject = Field(
        "auto", description="none hides the tools; required, a named tool and allowed_tools are enforced."
    )
    parallel_tool_calls: bool = Field(True, description="false: the answer ends after its first call.")
    text: TextOptions | None = Field(None, description="format: enforced as in chats; verbosity: for the template.")
    reasoning: ResponseReasoning | None = Field(
        None, description="effort as in chats; summary, context and mode are of no effect."
    )
    include: list[
        Literal[
            "reasoning.encrypted_content",
            "message.output_text.logprobs",
            "message.input_image.image_url",
            "file_search_call.results",
            "web_search_call.results",
            "web_search_call.action.sources",
            "computer_call_output.output.image_url",
            "code_interpreter_call.outputs",
        ]
    ] = Field(
        default_factory=list,
        description="reasoning.encrypted_content and message.output_text.logprobs are honoured, others of no effect.",
    )
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="Alternatives per token.")
    truncation: Literal["auto", "disabled"] = Field(
        "disabled", description="auto: the oldest turns are dropped from a conversation that is too long."
    )
    metadata: dict[_Key, _Value] = Field(
        default_factory=dict, max_length=_MAX_PAIRS, description="Up to 16 pairs of texts; kept with the response."
    )
    prompt_cache_options: CacheOptions | None = Field(None, description="prewarm: true is generate: false.")
    prompt_cache_key: _Label | None = Field(None, description="Of no effect; shown in the response.")
    safety_identifier: _Label | None = Field(None, description="Of no effect; shown in the response.")
    user: _Label | None = Field(None, description="Of no effect; shown in the response.")
    chat_template_kwargs: JsonObject = Field(default_factory=dict, description="Variables of the template.")

    def check(self) -> None:
        """Rules between fields. Raises InvalidRequestError."""
        self.reasoning_settings()
        if self.background and not self.store:
            raise InvalidRequestError("background needs store: true", param="background")
        image = (self.model_extra or {}).get("image")
        if isinstance(image, dict) and image.get("context_compression") == "enabled":
            name = "image.context_compression"
            raise InvalidRequestError(f"'{name}' is not supported", param=name, code="unsupported_value")

    @property
    def num_logprobs(self) -> int | None:
        """The number of alternatives per token. None: no logprobs."""
        wants = _LOGPROBS in self.include or self.top_logprobs
        return (self.top_logprobs or 0) if wants else None

    @property
    def wants_sealed_reasoning(self) -> bool:
        """Whether reasoning is to come as `encrypted_content`, too."""
        return _SEALED in self.include

    @property
    def is_prewarm(self) -> bool:
        """Whether only the cache is to be filled."""
        options = self.prompt_cache_options
        return not self.generate or (options is not None and options.prewarm is True)

    def to_chat_request(self, given: ReadInput) -> ChatRequest:
        """The conversation that this body asks for: the body of a chat, read as chats are.

        Raises InvalidRequestError, naming the client's field.
        """
        conversation, table = given.conversation, given.table
        names = FieldNames({**self.param_names, **_NAMES}, tuple(conversation.places), tuple(table.paths))
        with names.in_errors():
            body, _ = parse_body(self._chat_document(given), ChatBody)
            request = body.to_chat_request()
        names = replace(names, fields={**request.names.fields, **self.param_names, **_NAMES})
        constraint = request.constraint
        if constraint is not None:
            constraint = replace(constraint, param=names.of(constraint.param))
        return replace(request, names=names, constraint=constraint, warnings=given.warnings)

    def _chat_document(self, given: ReadInput) -> JsonObject:
        """The same request as a body of the chat API."""
        shared = (self.model_fields_set & ChatBody.model_fields.keys()) - _OWN
        document: JsonObject = self.model_dump(include=shared, by_alias=True, exclude_unset=True)
        document["messages"] = given.conversation.messages + self._warm_up_turn(given.conversation)
        # An answer of no tokens would be given without computing the prompt. Nobody sees the one token.
        document["max_completion_tokens"] = 1 if self.is_prewarm else self.max_output_tokens
        document["logprobs"] = self.num_logprobs is not None
        document["top_logprobs"] = self.num_logprobs
        if given.table.chat_tools:
            document["tools"] = given.table.chat_tools
        document["tool_choice"] = given.table.chat_choice(self.tool_choice)
        if self.reasoning is not None:
            document["reasoning"] = self.reasoning.model_dump(exclude_unset=True)
        if self.is_prewarm:
            document["add_generation_prompt"] = False
        text = self.text or TextOptions.model_construct()
        if text.format is not None and not self.is_prewarm:
            form = text.format
            if form.type == "json_schema" and form.schema_ is None:
                raise InvalidRequestError("text.format.schema: Field required", param="text.format.schema")
            document["response_format"] = form.model_dump(by_alias=True, exclude_unset=True)
        if text.verbosity is not None:
            variables = {"verbosity": text.verbosity, **self.chat_template_kwargs}
            document["chat_template_kwargs"] = variables
        return document

    def _warm_up_turn(self, conversation: Conversation) -> list[JsonObject]:
        """What a conversation without a user gets for a warm-up. Then its head ends where a later prompt differs."""
        has_user = any(message["role"] == "user" for message in conversation.messages)
        return [{"role": "user", "content": "Hi"}] if self.is_prewarm and not has_user else []
