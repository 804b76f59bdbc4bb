"""MiniMax M1's calls: JSON objects between tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class MiniMaxM1(ChatFormat):
    """<tool_calls> {"name": NAME, "arguments": {...}} ... </tool_calls>, each on its own line."""

    name: ClassVar[str] = "minimax_m1"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_calls>", '"name"'),)
    priority: ClassVar[int] = 40
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<tool_calls>", "</tool_calls>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (json_list("<tool_calls>\n", "\n</tool_calls>", between="\n"),)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<tool_calls>")
    closers = ("</tool_calls>",)

    def call(self, marker: str) -> Wait[None]:
        """All calls of an answer."""
        yield from self.json_calls()
        yield from self.accept_end("</tool_calls>")
