"""Hunyuan 3's calls: GLM's tags with a suffix, in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.formats.glm import GlmCallParser, value_ends
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

# The end of the tag tokens in the published weights.
_SUFFIX = ":opensource"


class Hunyuan3(ChatFormat):
    """<tool_calls> <tool_call>NAME<tool_sep> <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> </tool_call> ..."""

    name: ClassVar[str] = "hunyuan3"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_sep", "<arg_key"),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = tuple(
        f"<{slash}{tag}{_SUFFIX}>"
        for tag in ("think", "tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
        for slash in ("", "/")
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls=f"<tool_calls{_SUFFIX}>\n",
            before_name=(f"<tool_call{_SUFFIX}>",),
            after_name=f"<tool_sep{_SUFFIX}>\n",
            arguments=TaggedArguments(
                f"<arg_key{_SUFFIX}>",
                f"</arg_key{_SUFFIX}>\n<arg_value{_SUFFIX}>",
                f"</arg_value{_SUFFIX}>\n",
                f"</arg_value{_SUFFIX}>",
            ),
            after_arguments=(f"</tool_call{_SUFFIX}>",),
            after_calls=f"\n</tool_calls{_SUFFIX}>",
            marker=f"<tool_calls{_SUFFIX}>",
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags(f"<think{_SUFFIX}>", f"</think{_SUFFIX}>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(GlmCallParser):
    starts = Markers(f"<tool_calls{_SUFFIX}>")
    suffix = _SUFFIX
    ends = value_ends(_SUFFIX)
    after_call = (f"<tool_call{_SUFFIX}>", f"</tool_calls{_SUFFIX}>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of an answer."""
        while True:
            yield from self.space()
            yield from self.expect(f"<tool_call{_SUFFIX}>")
            yield from self.keyed_call()
            if (yield from self.accept_end(f"</tool_calls{_SUFFIX}>")):
                return
