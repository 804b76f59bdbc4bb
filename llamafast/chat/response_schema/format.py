"""SchemaFormat: the format that a config writes down as model.response_schema."""

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

# <|name|>, <name>, [NAME]; not the name of a group.
_TOKEN = re.compile(r"(?<!\(\?P)<[^<>\s()\[\]]+>|\[/?[A-Z_]+\]")

_HARMONY = ("<|channel|>final<|message|>", "<|channel|>commentary to=functions.")

logger = logging.getLogger(__name__)

_MESSAGE = {"role", "content", "tool_calls", *REASONING_NAMES}


class ResponseSchemaFormat(ChatFormat):
    """Answers by a response schema: JSON Schema with x-regex, x-regex-iterator, x-regex-key-value and x-parser.

    A schema of literal texts with gaps between them is followed as the text comes; any other is applied once, at the
    text's end, as the log says; one that describes harmony is read as that. Fields of a message that no client knows
    are left out. `written`: the format that the chat template writes, to which calls are held: a schema does not say
    how. Raises ValueError naming the place in the schema that is not valid. Source: Hugging Face transformers,
    response parsing.
    """

    name: ClassVar[str] = "response_schema"

    def __init__(self, schema: object, written: ChatFormat | None = None) -> None:
        self._root = compile_schema(schema)
        if self._root.type != "object" and self._root.properties:
            raise ValueError(f"{self._root.path}.type: a message is an object")
        regexes = "".join(_regexes(schema)).replace("\\", "")
        # Its models write more kinds of headers than a regex tells, and leave end tokens out.
        self._known = Harmony() if all(text in regexes for text in _HARMONY) else None
        self._written = self._known or written or Plain()
        self._plan = compile_stream_plan(self._root)
        self._markers = self._known.markers if self._known else tuple(dict.fromkeys(_markers(schema)))
        if self._known is not None:
            logger.info("response_schema: its regexes are %s's: answers are read as that format", self._known.name)
        elif self._plan is None:
            logger.info("response_schema: its shape shows only at an answer's end, where it is applied, once")
        unknown = sorted(self._root.properties.keys() - _MESSAGE)
        if unknown:
            logger.info("response_schema: no part of a chat message, left out: %s", ", ".join(unknown))

    @property
    def markers(self) -> tuple[str, ...]:  # type: ignore[override]  # each schema has its own
        """Texts of control tokens that the parser must see: those in the regexes."""
        return self._markers

    def matches(self, template: str) -> bool:
        """Never: it is chosen by the config."""
        return False

    @property
    def reads_calls(self) -> bool:  # type: ignore[override]  # each schema has its own
        """Whether the schema says how calls are written."""
        return self._known is not None or "tool_calls" in self._root.properties

    @property
    def is_framed(self) -> bool:
        """Whether content stands in a frame."""
        return self._written.is_framed

    def reasoning_at(self, prompt: str) -> ReasoningTags | None:
        """Of the format that the chat template writes."""
        return self._written.reasoning_at(prompt)

    def grammar(self, prompt: str, tools: Sequence[Tool], policy: CallPolicy, *, may_reason: bool = True) -> str:
        """Of the format that the chat template writes."""
        return self._written.grammar(prompt, tools, policy, may_reason=may_reason)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt, at whose end the schema's text may begin already."""
        if self._known is not None:
            return self._known.parser(prompt, tools)
        tail = _tail(self._root, prompt)
        if self._plan is not None:
            return ResponseSchemaParser(self._plan, tail, tools)
        return _EndParser(self._root, tail, tools)


class _EndParser(StreamParser):
    """Keeps the text and applies the schema at its end."""

    def __init__(self, root: SchemaNode, tail: str, tools: Sequence[Tool] | None) -> None:
        self._root = root
        self._num_tail = len(tail)
        self._tools = tools
        self._pieces = [tail]

    def feed(self, text: str) -> list[Event]:
        """Nothing is certain before the end."""
        self._pieces.append(text)
        return []

    def finish(self) -> list[Event]:
        """All of it."""
        return message_events(self._root, "".join(self._pieces), self._num_tail, self._tools)


def _regexes(schema: object) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _regexes(value)
        elif key.startswith("x-"):
            yield str(value)


def _markers(schema: object) -> Iterator[str]:
    """What looks like a control token in a schema's regexes."""
    for text in _regexes(schema):
        yield from ['<|"|>'] if text == "gemma4-tool-call" else _TOKEN.findall(text.replace("\\", ""))


def _tail(root: SchemaNode, prompt: str) -> str:
    """The prompt's end that the schema's regexes begin in: the header of the turn, or a tag that opens it."""
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
    # The last header may be an older turn's, if the model goes on without one behind a tool's result.
    return "" if iterator is not None and iterator.search(tail) else tail


def _leads(root: SchemaNode) -> Iterator[str]:
    """Texts with which an answer may begin, the outer ones first."""
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
