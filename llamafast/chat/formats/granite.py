"""Granite 3's calls: a JSON list after a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class Granite(ChatFormat):
    """<|tool_call|>[{"name": NAME, "arguments": {...}}, ...]. Some versions write <tool_call>."""

    name: ClassVar[str] = "granite"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tool_call|>",),)
    priority: ClassVar[int] = 30
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<|tool_call|>", "<tool_call>", "</tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (json_list("<|tool_call|>[", "]"),)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<|tool_call|>", "<tool_call>")
    closers = ("</tool_call>",)

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list, which usually ends the answer."""
        yield from self.json_calls()
        if marker == "<tool_call>":
            yield from self.accept_end("</tool_call>")
