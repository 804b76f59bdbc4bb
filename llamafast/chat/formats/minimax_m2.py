"""MiniMax M2's calls: one element per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.tools import Tool


class MiniMaxM2(ChatFormat):
    """<minimax:tool_call> <invoke name="NAME"> <parameter name="KEY">VALUE</parameter> </invoke> ..."""

    name: ClassVar[str] = "minimax_m2"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<minimax:tool_call>",),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<minimax:tool_call>\n",
            before_name=('<invoke name="',),
            after_name='">\n',
            arguments=TaggedArguments('<parameter name="', '">', "</parameter>\n", "</parameter>"),
            after_arguments=("</invoke>",),
            after_calls="\n</minimax:tool_call>",
            marker="<minimax:tool_call>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(XmlCallParser):
    starts = Markers("<minimax:tool_call>")
    elements = Elements(
        '<invoke name="', "</invoke>", '<parameter name="', "</parameter>", '">', outer_close="</minimax:tool_call>"
    )

    def call(self, marker: str) -> Wait[None]:
        """All calls of an answer."""
        yield from self.xml_calls()
