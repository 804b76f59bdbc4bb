"""Apriel's calls: a JSON list between tags. A line of its own ends the reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool


class Apriel(ChatFormat):
    """<tool_calls>[{"name": NAME, "arguments": {...}, "id": ID}, ...]</tool_calls>"""

    name: ClassVar[str] = "apriel"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("<tool_calls>", "<thinking>"),
        ("<tool_calls>", "[BEGIN FINAL RESPONSE]"),
    )
    priority: ClassVar[int] = 50
    markers: ClassVar[tuple[str, ...]] = (
        "<thinking>",
        "</thinking>",
        "<tool_calls>",
        "</tool_calls>",
        "[BEGIN FINAL RESPONSE]",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (json_list("<tool_calls>[", "]</tool_calls>"),)
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<thinking>", "</thinking>")
    other_reasoning: ClassVar[tuple[ReasoningTags, ...]] = (
        ReasoningTags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        THINK,
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<tool_calls>")
    ends_with_arguments = False
    closers = ("</tool_calls>",)
    wrappers = ("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]")

    def call(self, marker: str) -> Wait[None]:
        """All calls of an answer."""
        yield from self.json_calls()
        yield from self.accept_end("</tool_calls>")
