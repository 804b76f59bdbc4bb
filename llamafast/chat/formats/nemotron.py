"""Nemotron Nano 2's calls: a JSON list between tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class Nemotron(ChatFormat):
    """<TOOLCALL>[{"name": NAME, "arguments": {...}}, ...]</TOOLCALL>"""

    name: ClassVar[str] = "nemotron"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<TOOLCALL>",),)
    priority: ClassVar[int] = 50
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<TOOLCALL>", "</TOOLCALL>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (json_list("<TOOLCALL>[", "]</TOOLCALL>"),)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<TOOLCALL>")
    closers = ("</TOOLCALL>",)

    def call(self, marker: str) -> Wait[None]:
        """One list of calls."""
        yield from self.json_calls()
        yield from self.accept_end("</TOOLCALL>")
