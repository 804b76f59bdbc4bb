"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamafast import caps
from llamafast._json_shape import shape_of
from llamafast.caps import at_most
from llamafast.chat.prompt.reasoning_state import invalid_reasoning_switch
from llamafast.errors import InvalidRequestError
from llamafast.server.chat.media import MediaPart
from llamafast.server.chat.request import ChatRequest
from llamafast.server.schemas.common import NO_OP, NOT_YET, SPECIAL_ALIASES, RequestBody
from llamafast.server.schemas.media import KINDS, media_part
from llamafast.server.schemas.pieces import IN_PIECES
from llamafast.server.schemas.reasoning import BUDGET_ALIASES, ReasoningFields
from llamafast.server.schemas.sampling import MAX_LOGPROBS, SamplingFields
from llamafast.server.schemas.tools import ToolFields

_NOT_YET_CHAT: Mapping[str, tuple[object, ...]] = {
    **{name: values for name, values in NOT_YET.items() if name not in BUDGET_ALIASES},
    "reasoning_format": ("auto", "deepseek"),
    "separate_reasoning": (True,),
    "stream_reasoning": (True,),
    "reasoning_control": (False,),
    "reasoning_budget_message": (),
    "parse_tool_calls": (True,),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "moderation": (),
    "verbosity": ("medium",),
    "documents": ([],),
    "chat_template": (),
    "echo": (False,),
    "best_of": (1,),
}

# Arguments of ChatTemplate.render that other fields set.
_RESERVED_KWARGS = ("self", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


class ContentPart(BaseModel):
    """One part of a message: a text, the refusal of an assistant, an image or a sound."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_refusal(cls, value: object) -> object:
        # The model reads a refusal as the text of its earlier answer.
        if isinstance(value, dict) and value.get("type") == "refusal" and "refusal" in value:
            return {"type": "text", "text": value["refusal"]}
        return value

    def check(self, path: str) -> None:
        """Raise InvalidRequestError if the part is not supported. path: the path of the part in the body."""
        if self.type in KINDS:
            return  # to_chat_request() reads it
        if self.type != "text":
            raise InvalidRequestError(
                f"{path}: a part of type '{self.type[:64]}' is not supported",
                param=path,
                code="unsupported_content",
            )
        if "text" not in self.model_fields_set:
            raise InvalidRequestError(f"{path}.text: Field required", param=f"{path}.text")


class ChatMessage(BaseModel):
    """One message. Other fields (name, reasoning_content ...) are given to the template unchanged."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], IN_PIECES] | None = None
    tool_calls: Annotated[list[dict[str, object]], IN_PIECES] | None = None

    def as_sent(self) -> dict[str, object]:
        """The message with every field that the client gave, as template_messages takes it."""
        content = self.content
        parts = [part.model_dump(exclude_unset=True) for part in content] if isinstance(content, list) else content
        return {**(self.model_extra or {}), "role": self.role, "content": parts, "tool_calls": self.tool_calls}

    def with_marks(self, path: str, media: list[MediaPart]) -> dict[str, object]:
        """As as_sent(), with a mark in place of each image or sound. OUT media: they are appended to it.

        path: the message's place in the body. Raises InvalidRequestError.
        """
        message, content = self.as_sent(), self.content
        if not isinstance(content, list) or not any(part.type in KINDS for part in content):
            return message
        parts: list[object] = []
        for j, part in enumerate(content):
            fields = part.model_dump(exclude_unset=True)
            if part.type in KINDS:
                media.append(media_part(fields, self.role, f"{path}.content[{j}]"))
                fields = {"type": "text", "text": media[-1].mark}
            parts.append(fields)
        return {**message, "content": parts}


class ChatBody(ToolFields, ReasoningFields, RequestBody):
    """The body of a chat: OpenAI's fields and vLLM's extra sampling and template fields."""

    not_yet: ClassVar[Mapping[str, tuple[object, ...]]] = _NOT_YET_CHAT
    no_op: ClassVar[frozenset[str]] = NO_OP | {"prediction"}
    aliases: ClassVar[Mapping[str, str]] = {**SamplingFields.aliases, **BUDGET_ALIASES, **SPECIAL_ALIASES}

    messages: Annotated[list[ChatMessage], IN_PIECES] = Field(
        min_length=1,
        description="The conversation. content is a text or a list of text parts; reasoning_content is read, too.",
    )
    max_tokens: int | None = Field(None, description="Older name of max_completion_tokens.")
    max_completion_tokens: int | None = Field(
        None, description="Maximum tokens of the answer, reasoning included. Absent: until the context is full."
    )
    logprobs: bool = Field(False, description="Return the logprobs of the content's tokens.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Number of alternatives per token; needs logprobs."
    )
    chat_template_kwargs: dict[str, object] = Field(
        default_factory=dict, description="Variables for the chat template."
    )
    add_generation_prompt: bool | None = Field(
        None, description="End the prompt with the beginning of an answer. Default: not continue_final_message."
    )
    continue_final_message: bool = Field(False, description="Continue the last message.")
    add_special_tokens: bool = Field(
        False,
        description="true: add a BOS if the vocabulary requires one and the template has not written it. "
        "Also `add_special`.",
    )

    def check(self) -> None:
        """Check rules that involve several fields. Raises InvalidRequestError."""
        super().check()
        self.reasoning_settings()
        self._check_sizes()
        for i, message in enumerate(self.messages):
            for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
                part.check(f"messages[{i}].content[{j}]")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message and add_generation_prompt cannot both be true", param="continue_final_message"
            )
        for name in _RESERVED_KWARGS:
            if name in self.chat_template_kwargs:
                raise InvalidRequestError(
                    f"chat_template_kwargs must not contain '{name}'", param=f"chat_template_kwargs.{name}"
                )
        switch = invalid_reasoning_switch(self.chat_template_kwargs)
        if switch is not None:
            param = f"chat_template_kwargs.{switch}"
            raise InvalidRequestError(f"{param}: must be true or false", param=param)

    def _check_sizes(self) -> None:
        messages = self.messages
        at_most("messages", len(messages), caps.MAX_MESSAGES)
        num_parts = sum(len(message.content) for message in messages if isinstance(message.content, list))
        at_most("parts of all messages", num_parts, caps.MAX_PARTS, "messages")
        num_calls = sum(len(message.tool_calls or ()) for message in messages)
        at_most("tool_calls of all messages", num_calls, caps.MAX_TOOL_CALLS, "messages")
        for i, message in enumerate(messages):
            for j, call in enumerate(message.tool_calls or ()):
                _check_arguments(call.get("function"), f"messages[{i}].tool_calls[{j}].function.arguments")
            legacy = (message.model_extra or {}).get("function_call")
            _check_arguments(legacy, f"messages[{i}].function_call.arguments")

    @property
    def token_limit(self) -> int | None:
        """max_completion_tokens, or else max_tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def param_names(self) -> dict[str, str]:
        """The names that this request uses for fields, by the engine's names of the fields."""
        limit = {} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
        names = super().param_names
        budget = names.get("thinking_budget", "thinking_budget")
        return {**names, "prompt": "messages", "reasoning_budget": budget, **limit}

    @property
    def num_logprobs(self) -> int | None:
        """The number of alternatives per token. None: no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def to_chat_request(self) -> ChatRequest:
        """The body as a ChatRequest. Raises InvalidRequestError."""
        tools, names = self.tool_policy(), self.tool_field_names
        adds_prompt = self.add_generation_prompt
        media: list[MediaPart] = []
        messages = tuple(message.with_marks(f"messages[{i}]", media) for i, message in enumerate(self.messages))
        return ChatRequest(
            messages=messages,
            media=tuple(media),
            sampling=partial(self.sampling, max_tokens=self.token_limit, logprobs=self.num_logprobs),
            tools=tools,
            constraint=self.constraint(),
            reasoning=self.reasoning_settings(),
            template_variables=self.chat_template_kwargs,
            add_generation_prompt=not self.continue_final_message if adds_prompt is None else adds_prompt,
            continue_final_message=self.continue_final_message,
            add_special=self.add_special_tokens,
            skip_special=self.skip_special_tokens,
            cache=self.cache_settings,
            names=replace(names, fields={**self.param_names, **names.fields}),
        )


def _check_arguments(function: object, param: str) -> None:
    """Refuse arguments with too many JSON values: reading them would block all other threads for long."""
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, str) and len(arguments) > caps.MAX_ARGUMENTS_WEIGHT // 10:
        weight = shape_of(arguments.encode()).weight
        if weight > caps.MAX_ARGUMENTS_WEIGHT:
            raise InvalidRequestError(
                f"{param}: too many JSON values; the limit is about {caps.MAX_ARGUMENTS_WEIGHT}", param=param
            )
