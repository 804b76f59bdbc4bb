"""The calls of GLM 4.5 and its successors, Ling 3, Laguna and Spark 2.5: tags around keys and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.tagged_calls import TaggedCallParser, ValueEnds
from llamafast.chat.tools import Tool

_name = re.compile(r"[-\w.:/]*")
_key = re.compile(r"[^<>\n]*")


def _in_lines(line: str) -> CallSyntax:
    """The syntax with each tag on its own line, as 4.6 writes it, or without line breaks, as 4.7 does."""
    return CallSyntax(
        before_name=("<tool_call>",),
        after_name=line,
        arguments=TaggedArguments("<arg_key>", f"</arg_key>{line}<arg_value>", f"</arg_value>{line}", "</arg_value>"),
        after_arguments=("</tool_call>",),
        between=line,
        marker="<tool_call>",
    )


class Glm(ChatFormat):
    """<tool_call>NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> ... </tool_call>, with or without line
    breaks.
    """

    name: ClassVar[str] = "glm"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_call>", "<arg_key>"),)
    priority: ClassVar[int] = 30
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_in_lines("\n"), _in_lines(""))

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


def value_ends(suffix: str = "") -> ValueEnds:
    """The ends of a value. suffix: the end of each tag's name."""
    forbidden = (f"<arg_value{suffix}>", f"</arg_key{suffix}>")
    opener, close = f"<arg_key{suffix}>", f"</arg_value{suffix}>"
    return ValueEnds(close, opener, (f"</tool_call{suffix}>",), forbidden=forbidden, call_open=f"<tool_call{suffix}>")


class GlmCallParser(TaggedCallParser):
    """Reads calls from keys and values. suffix: the end of each tag's name."""

    suffix = ""
    ends = value_ends()
    after_call: tuple[str, ...] = ("<tool_call>",)

    def keyed_call(self) -> Wait[None]:
        """The rest of a call after its opening tag."""
        yield from self.space()
        name = yield from self.word(_name)
        yield from self.accept(f"<tool_sep{self.suffix}>")
        yield from self.space()
        if not (yield from self.peek_any((self.ends.opener, *self.ends.call_closes))):
            raise MalformedError
        self.start_call(name)
        yield from self.tagged_arguments(name)

    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """The rest of an argument's key, and the opening tag of its value."""
        key = (yield from self.word(_key)).strip()
        yield from self.expect(f"</arg_key{self.suffix}>")
        yield from self.space()
        yield from self.expect(f"<arg_value{self.suffix}>")
        while (yield from self.accept(f"<arg_value{self.suffix}>")):
            pass
        return key, None


class _Parser(GlmCallParser):
    starts = Markers("<tool_call>")

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        yield from self.keyed_call()
