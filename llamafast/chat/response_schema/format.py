"""ResponseSchemaFormat: the chat format that a config defines as model.response_schema."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from llamafast.chat.enforcing.output_grammar import CallPolicy
from llamafast.chat.events import Event
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.formats.harmony import Harmony
from llamafast.chat.formats.plain import Plain
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.response_schema.message import REASONING_NAMES, message_events
from llamafast.chat.response_schema.parser import ResponseSchemaParser
from llamafast.chat.response_schema.regex_parts import UnsupportedRegexError, literal, parse_regex
from llamafast.chat.response_schema.schema_nodes import SchemaNode, compile_schema
from llamafast.chat.response_schema.stream_plan import compile_stream_plan
from llamafast.chat.tools import Tool

# <|name|>, <name> and [NAME], but not the name of a regex group.
_TOKEN = re.compile(r"(?<!\(\?P)<[^<>\s()\[\]]+>|\[/?[A-Z_]+\]")

_HARMONY = ("<|channel|>final<|message|>", "<|channel|>commentary to=functions.")

logger = logging.getLogger(__name__)

_MESSAGE = {"role", "content", "tool_calls", *REASONING_NAMES}


class ResponseSchemaFormat(ChatFormat):
    """A format defined by a response schema: JSON Schema with x-regex, x-regex-iterator, x-regex-key-value and
    x-parser.

    A schema of literal texts with gaps between them is applied while the text arrives. Any other schema is applied
    once, at the end of the text, and the log says so. A schema that describes harmony is read as harmony. Fields that
    are not part of a chat message are dropped.

    schema: the response schema.
    written: the format that the chat template writes. Grammars use it, because a schema does not define how calls are
        written.
    Raises ValueError, which names the invalid place in the schema. Source: Hugging Face transformers, response parsing.
    """

    name: ClassVar[str] = "response_schema"

    def __init__(self, schema: object, written: ChatFormat | None = None) -> None:
        self._root = compile_schema(schema)
        if self._root.type != "object" and self._root.properties:
            raise ValueError(f"{self._root.path}.type: a message is an object")
        regexes = "".join(_regexes(schema)).replace("\\", "")
        # Its models write more kinds of headers than a regex describes, and omit end tokens.
        self._known = Harmony() if all(text in regexes for text in _HARMONY) else None
        self._written = self._known or written or Plain()
        self._plan = compile_stream_plan(self._root)
        self._markers = self._known.markers if self._known else tuple(dict.fromkeys(_markers(schema)))
        if self._known is not None:
            logger.info("response_schema: its regexes describe the format %s, which reads answers", self._known.name)
        elif self._plan is None:
            logger.info("response_schema: it is applied once, at an answer's end: nothing is streamed before")
        unknown = sorted(self._root.properties.keys() - _MESSAGE)
        if unknown:
            logger.info("response_schema: dropped fields that are not part of a chat message: %s", ", ".join(unknown))

    @property
    def markers(self) -> tuple[str, ...]:  # type: ignore[override]  # each schema has its own
        """Texts of control tokens that the parser must see: those in the regexes."""
        return self._markers

    def matches(self, template: str) -> bool:
        """Never. The config selects this format."""
        return False

    @property
    def reads_calls(self) -> bool:  # type: ignore[override]  # each schema has its own
        """Whether the schema defines how calls are written."""
        return self._known is not None or "tool_calls" in self._root.properties

    @property
    def is_framed(self) -> bool:
        """Whether content is written between a header and an end marker."""
        return self._written.is_framed

    def reasoning_at(self, prompt: str) -> ReasoningTags | None:
        """The tags of the format that the chat template writes."""
        return self._written.reasoning_at(prompt)

    def grammar(self, prompt: str, tools: Sequence[Tool], policy: CallPolicy, *, may_reason: bool = True) -> str:
        """The grammar of the format that the chat template writes."""
        return self._written.grammar(prompt, tools, policy, may_reason=may_reason)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for the text that follows prompt. The text of the schema may begin at the end of prompt."""
        if self._known is not None:
            return self._known.parser(prompt, tools)
        tail = _tail(self._root, prompt)
        if self._plan is not None:
            return ResponseSchemaParser(self._plan, tail, tools)
        return _EndParser(self._root, tail, tools)


class _EndParser(StreamParser):
    """Collects the text and applies the schema at its end."""

    def __init__(self, root: SchemaNode, tail: str, tools: Sequence[Tool] | None) -> None:
        self._root = root
        self._num_tail = len(tail)
        self._tools = tools
        self._pieces = [tail]

    def feed(self, text: str) -> list[Event]:
        """No events, because none is certain before the end."""
        self._pieces.append(text)
        return []

    def finish(self) -> list[Event]:
        """All events."""
        return message_events(self._root, "".join(self._pieces), self._num_tail, self._tools)


def _regexes(schema: object) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _regexes(value)
        elif key.startswith("x-"):
            yield str(value)


def _markers(schema: object) -> Iterator[str]:
    """The texts in a schema's regexes that look like control tokens."""
    for text in _regexes(schema):
        yield from ['<|"|>'] if text == "gemma4-tool-call" else _TOKEN.findall(text.replace("\\", ""))


def _tail(root: SchemaNode, prompt: str) -> str:
    """The end of the prompt where the schema's regexes begin: the header of the turn, or a tag that opens it."""
    leads = list(_leads(root))
    if not leads:
        return ""
    start = prompt.rfind(leads[0])
    if start < 0:
        for lead in leads[1:]:
            start = prompt.rfind(lead)
            if start >= 0 and not prompt[start + len(lead) :].strip():
                return prompt[start:]
        return ""
    tail = prompt[start:]
    iterator = root.properties["tool_calls"].iterator if "tool_calls" in root.properties else None
    # If the model continues without a header after a tool's result, the last header belongs to an earlier turn.
    return "" if iterator is not None and iterator.search(tail) else tail


def _leads(root: SchemaNode) -> Iterator[str]:
    """Texts with which an answer may begin. Outer ones come first."""
    for name in (*REASONING_NAMES, "content"):
        node = root.properties.get(name)
        if node is None or node.regex is None:
            continue
        try:
            parts = parse_regex(node.regex.pattern)
        except UnsupportedRegexError:
            continue
        for part in parts:
            if part.kind == "option" and len(part.alternatives) == 1 and (text := literal(part.alternatives[0])):
                yield text
            elif part.kind != "start":
                break
