"""ChatFormat: how one family of models writes reasoning, content and tool calls. StreamParser: reads such text."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import ClassVar

from llamafast.chat.enforcing.call_grammar import PromptEnd, call_grammar
from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.events import Event
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool
from llamafast.errors import GrammarError
from llamafast.json_schema.subschemas import check_depth

_NUM_CACHED = 32  # each takes up to some hundred kilobytes


class StreamParser(ABC):
    """Reads the text of one sequence and yields events, in O(1) amortized time per character.

    The events add up to the same message (ParsedMessage) however the text is cut into pieces. Text that may be a part
    of a marker is held back until that is known. No text is lost: text that proves not to be a marker becomes content,
    and so does a call whose head (up to its name) is malformed. A call that is malformed after its head ends with
    CallEnd(is_complete=False), and the text from there on becomes content. Reasoning is stripped at both ends. White
    space between reasoning, content and calls is dropped. All other white space is kept.

    is_reasoning: the text so far ends inside reasoning. It stays False in a parser that reads only at the end.
    """

    is_reasoning: bool = False

    @abstractmethod
    def feed(self, text: str) -> list[Event]:
        """The events that are certain with this text. text: the next piece of the model's text."""

    @abstractmethod
    def finish(self) -> list[Event]:
        """The remaining events, after the model has stopped for any reason. It is called once, as the last method.

        A call without its end marker is complete if its arguments are, because some models end a call with a stop
        token.
        """

    def read(self, pieces: Iterable[str]) -> list[Event]:
        """All events of a text in pieces, up to its end."""
        return [*(event for piece in pieces for event in self.feed(piece)), *self.finish()]


class ChatFormat(ABC):
    """One format. Its objects have no state, so all requests share one.

    A family of models declares its format in one file of formats/, by these class attributes and a parser:

    name: what --tool-format calls the format.
    template_texts: groups of texts. The format matches a chat template that contains all texts of one of the groups.
    priority: which format is taken of several that match a template: the one with the highest number. A family whose
        texts are also in the templates of another family needs a lower number than that one.
    reads_calls: whether the format defines how tool calls are written. If not, they stay in the content.
    markers: texts of control tokens that the parser must see. The detokenizer hides all others.
    syntaxes: the ways to write calls to which a grammar can hold a model. All begin with the same text. Empty: no
        grammar can enforce calls.
    reasoning: the tags of a reasoning block. None: the models write none.
    other_reasoning: tags that the prompts of some templates open or close instead.
    """

    name: ClassVar[str]
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    priority: ClassVar[int]
    reads_calls: ClassVar[bool] = True
    markers: ClassVar[tuple[str, ...]] = ()
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = ()
    reasoning: ClassVar[ReasoningTags | None] = THINK
    other_reasoning: ClassVar[tuple[ReasoningTags, ...]] = ()

    def matches(self, template: str) -> bool:
        """Whether a chat template (its Jinja source) writes this format."""
        return any(all(text in template for text in texts) for texts in self.template_texts)

    @abstractmethod
    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for the text that follows prompt. The end of prompt may have opened a reasoning block or a message.

        tools None: the parser looks for no calls and leaves their markers in the content.
        """

    def reasoning_at(self, prompt: str) -> ReasoningTags | None:
        """The tags of the reasoning that the prompt's end opens or closes; otherwise those that the model writes."""
        text = prompt.rstrip()
        return next((tags for tags in self.other_reasoning if text.endswith((tags.open, tags.close))), self.reasoning)

    @property
    def tags(self) -> tuple[ReasoningTags, ...]:
        """The tags of all reasoning that the parser looks for."""
        return self.other_reasoning if self.reasoning is None else (self.reasoning, *self.other_reasoning)

    @property
    def is_framed(self) -> bool:
        """Whether content is written between a header and an end marker."""
        return any(syntax.content is not None for syntax in self.syntaxes)

    def grammar(self, prompt: str, tools: Sequence[Tool], policy: CallPolicy, *, may_reason: bool = True) -> str:
        """The grammar of the text that may follow prompt, as the text of a StructuredOutput of kind LARK.

        policy: the calls that the answer may or must contain. Without tools the grammar is that of policy.answer.
        may_reason: the model may open a reasoning block itself.
        Raises GrammarError. Its param is tool_choice, or the tools[i].function.parameters that the format cannot
        enforce.
        """
        if tools and not self.syntaxes:
            raise GrammarError(f"the chat format {self.name!r} cannot enforce tool calls", param="tool_choice")
        for i, tool in enumerate(tools):
            try:
                check_depth(tool.parameters)
            except GrammarError as error:
                raise GrammarError(error.message, param=f"tools[{i}].function.parameters") from None
        tags = self.reasoning_at(prompt)
        end = PromptEnd.of(prompt, self.syntaxes, tags, may_reason=may_reason)
        key = json.dumps([[tool.name, tool.parameters, tool.strict] for tool in tools] + [asdict(policy)])
        return _source(self, tags, end, _Wanted(key, tools, policy))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The arguments of a cached grammar. Two of them are equal if their keys are equal."""

    key: str
    tools: Sequence[Tool] = field(compare=False)
    policy: CallPolicy = field(compare=False)


@lru_cache(maxsize=_NUM_CACHED)
def _source(chat_format: ChatFormat, tags: ReasoningTags | None, end: PromptEnd, wanted: _Wanted) -> str:
    """The source of a grammar. It is cached, because clients send the same tools with each request."""
    return call_grammar(chat_format.syntaxes, tags, end, wanted.tools, wanted.policy).source
