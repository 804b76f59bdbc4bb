"""MiniCPM 5's calls: one element per parameter. Long values are in CDATA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.tools import Tool


class MiniCpm5(ChatFormat):
    """<function name="NAME"><param name="KEY">VALUE</param></function>"""

    name: ClassVar[str] = "minicpm5"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (('<function name="', '<param name="'),)
    priority: ClassVar[int] = 30
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<function", "</function>", "<param", "</param>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=('<function name="',),
            after_name='">',
            arguments=TaggedArguments('<param name="', '">', "</param>", "</param>", quotes=("<![CDATA[", "]]>")),
            after_arguments=("</function>",),
            marker='<function name="',
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(XmlCallParser):
    starts = Markers('<function name="')
    elements = Elements('<function name="', "</function>", '<param name="', "</param>", '">', has_cdata=True)

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        yield from self.xml_call()
