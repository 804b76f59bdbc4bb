"""Muse's calls: messages to a tool, with one element per parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame, TaggedArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, TextEnd, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_recipient = re.compile(r"[^<>\s]*")


class Muse(ChatFormat):
    """to=NAME<|message|><atem:function_calls> <atem:invoke name="NAME"> <atem:parameter name="KEY">VALUE..."""

    name: ClassVar[str] = "muse"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<atem:invoke",),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=(" to=",),
            name_again='<|message|><atem:function_calls>\n<atem:invoke name="',
            after_name='">\n',
            arguments=TaggedArguments('<atem:parameter name="', '">', "</atem:parameter>\n", "</atem:parameter>"),
            after_arguments=("</atem:invoke>\n</atem:function_calls>",),
            between="<|eom|><|start|>assistant",
            marker=" to=",
            after_reasoning="<|start|>assistant",
            content=ContentFrame((" to=user<|message|>",), "<|eom|><|start|>assistant"),
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags(" to=self<|message|>", "<|eom|>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        # The space before the tag belongs to the prompt.
        return _Parser(prompt, tools, (ReasoningTags("to=self<|message|>", "<|eom|>"),))


class _Parser(XmlCallParser):
    starts = Markers("<atem:function_calls>")
    wrappers = ("<|start|>assistant", "<|eom|>", "<|eot|>")
    elements = Elements(
        '<atem:invoke name="',
        "</atem:invoke>",
        '<atem:parameter name="',
        "</atem:parameter>",
        '">',
        outer_close="</atem:function_calls>",
    )

    def call(self, marker: str) -> Wait[None]:
        """Usually one call."""
        yield from self.xml_calls()

    def skip_between_parts(self) -> Wait[None]:
        """Skip white space, reasoning and the recipients of messages."""
        yield from super().skip_between_parts()
        while (yield from self._header()):
            self.begin_part()
            yield from super().skip_between_parts()

    def _header(self) -> Wait[bool]:
        self.commit()
        try:
            yield from self.expect("to=")
            yield from self.word(_recipient)
            yield from self.expect("<|message|>")
            return True
        except MalformedError:
            self.roll_back()
            return False
        except TextEnd:
            self.roll_back()
            raise
