"""The calls of Qwen 3.5, Qwen3-Coder, Nemotron 3 and StepFun 3.5: one element per parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.tools import Tool


class Qwen3Xml(ChatFormat):
    """<tool_call> <function=NAME> <parameter=KEY> VALUE </parameter> </function> </tool_call>, each on its own line."""

    name: ClassVar[str] = "qwen3_xml"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_call>", "<function=", "<parameter="),)
    priority: ClassVar[int] = 30
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<tool_call>\n<function=",),
            after_name=">\n",
            after_arguments=("</function>\n</tool_call>",),
            arguments=TaggedArguments("<parameter=", ">\n", "\n</parameter>\n", "</parameter>"),
            marker="<tool_call>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(XmlCallParser):
    starts = Markers("<tool_call>", "<function=")
    elements = Elements(
        "<function=", "</function>", "<parameter=", "</parameter>", outer_close="</tool_call>", has_lines=True
    )

    def call(self, marker: str) -> Wait[None]:
        """One call. Qwen3-Coder often omits <tool_call>. Then the text is a call only if it names a tool of the
        request.
        """
        has_outer = marker == "<tool_call>"
        if has_outer:
            yield from self.space()
            yield from self.expect("<function=")
        yield from self.xml_call(is_call=has_outer)
        yield from self.accept_end("</tool_call>")
