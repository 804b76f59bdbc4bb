"""Seed-OSS' calls: one element per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool


class SeedOss(ChatFormat):
    """<seed:tool_call> <function=NAME> <parameter=KEY>VALUE</parameter> </function> </seed:tool_call>"""

    name: ClassVar[str] = "seed_oss"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<seed:tool_call>",),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = ("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<seed:tool_call>\n<function=",),
            after_name=">\n",
            arguments=TaggedArguments("<parameter=", ">", "</parameter>\n", "</parameter>"),
            after_arguments=("</function>\n</seed:tool_call>",),
            marker="<seed:tool_call>",
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<seed:think>", "</seed:think>")
    other_reasoning: ClassVar[tuple[ReasoningTags, ...]] = (THINK,)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(XmlCallParser):
    starts = Markers("<seed:tool_call>")
    elements = Elements("<function=", "</function>", "<parameter=", "</parameter>", outer_close="</seed:tool_call>")

    def call(self, marker: str) -> Wait[None]:
        """Usually one call."""
        yield from self.xml_calls()
