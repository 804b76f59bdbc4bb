"""ChatRequest: the record that every chat API makes from its body."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from llamafast.chat.prompt.reasoning_state import REASONING_SWITCHES
from llamafast.chat.prompt.turns import TrustedText
from llamafast.chat.tools import Tool
from llamafast.request import CacheSettings, SamplingParams
from llamafast.server.chat.field_names import FieldNames
from llamafast.server.chat.media import MediaPart
from llamafast.server.constraint import OutputConstraint
from llamafast.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, object]

# Makes the sampling settings of a request. Arguments: the vocabulary, and the model's defaults by the names of
# SamplingParams. Raises InvalidRequestError, which names the client's field.
SamplingSource: TypeAlias = Callable[[Tokenizer, Mapping[str, float]], SamplingParams]

# Values of the effort that switch reasoning off in a template with a switch; all others switch it on.
_OFF = ("none", "minimal")


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Which tools the model sees, and which calls it may or must make. The default: no tools.

    tools: the tools whose calls are read from the answer, in the client's order.
    shown: the tools as documents for the chat template, in OpenAI's chat form. They include tools that are not allowed,
    so that the beginning of the prompt stays the same and its cached prefix can be used.
    allowed: the names of the tools that the model may call. None: all of them.
    is_required: the answer must be a call.
    is_parallel: an answer may contain several calls. False: it ends after the first call.
    is_legacy: the answer shows its call in OpenAI's older field `function_call`.
    """

    tools: tuple[Tool, ...] = ()
    shown: tuple[Mapping[str, object], ...] = ()
    allowed: tuple[str, ...] | None = None
    is_required: bool = False
    is_parallel: bool = True
    is_legacy: bool = False

    @property
    def is_enforced(self) -> bool:
        """Whether a grammar must enforce this policy."""
        return self.is_required or self.allowed is not None or any(tool.strict for tool in self.tools)


@dataclass(frozen=True, slots=True)
class ReasoningSettings:
    """How the model reasons before its answer.

    effort: the template's variable `reasoning_effort`: none, minimal, low, medium, high, xhigh or max. None: the
    template's default.
    is_enabled: the model reasons; has an effect if the template has a switch. None: the effort decides, or else the
    template's default.
    budget: the greatest number of reasoning tokens. -1: no limit. None: the operator's limit.
    is_shown: the answer contains the reasoning. False: its tokens are only counted.
    """

    effort: str | None = None
    is_enabled: bool | None = None
    budget: int | None = None
    is_shown: bool = True

    def variables(self, known: Container[str]) -> dict[str, object]:
        """The template variables that these settings set. known: the variables that the template reads."""
        is_enabled = self.is_enabled
        if is_enabled is None and self.effort is not None:
            is_enabled = self.effort not in _OFF
        values: dict[str, object] = {} if self.effort is None else {"reasoning_effort": TrustedText(self.effort)}
        if is_enabled is not None:
            values |= {name: is_enabled for name in REASONING_SWITCHES if name in known}
        return values


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation and the settings of its answer. All fields except the first two have defaults.

    messages: OpenAI's chat messages with every field that the client gave, as template_messages takes them. The API has
    checked their roles, kinds of parts, types and sizes.
    sampling: makes the sampling settings, stop strings included.
    tools: the tools, and which of them the model may call.
    constraint: the constraint on the text of the answer. None: any text.
    reasoning: how the model reasons.
    template_variables: the client's own variables for the template, by name.
    add_generation_prompt: the prompt ends with the beginning of an answer.
    continue_final_message: the answer continues the last message.
    add_special: the prompt gets a BOS if the vocabulary requires one and the template has not written it.
    skip_special: the texts of control tokens are left out of the answer.
    known_ids: the tokens of a prompt and the answer to it. A prompt that begins with their text has these tokens: the
    model may have written a text with other tokens than the tokenizer would. None: nothing is known.
    media: the images and sounds; the messages contain their marks.
    cache: cache and queue settings of the engine's Request.
    names: the client's names of these fields, for errors.
    warnings: one text for the client for each part of its body that this record leaves out.
    """

    messages: tuple[Message, ...]
    sampling: SamplingSource
    tools: ToolPolicy = ToolPolicy()
    constraint: OutputConstraint | None = None
    reasoning: ReasoningSettings = ReasoningSettings()
    template_variables: Mapping[str, object] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special: bool = False
    skip_special: bool = True
    known_ids: array[int] | None = None
    media: tuple[MediaPart, ...] = ()
    cache: CacheSettings = field(default_factory=CacheSettings)
    names: FieldNames = field(default_factory=FieldNames)
    warnings: tuple[str, ...] = ()

    def variables(self, known: Container[str]) -> dict[str, object]:
        """All variables that the client sets in the template. known: the variables that the template reads.

        A null for a reasoning switch counts as absent: the reasoning settings decide.
        """
        given = {
            name: value
            for name, value in self.template_variables.items()
            if value is not None or name not in REASONING_SWITCHES
        }
        return {**self.reasoning.variables(known), **given}
