"""Phi-4's calls: a JSON list between tags, or after a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class Phi(ChatFormat):
    """<|tool_call|>[{"name": NAME, "arguments": {...}}, ...]<|/tool_call|>, or functools[...] (also Firefunction's)."""

    name: ClassVar[str] = "phi"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tool|>", "<|/tool|>"), ("functools[",))
    priority: ClassVar[int] = 40
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<|tool_call|>", "<|/tool_call|>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (json_list("<|tool_call|>[", "]<|/tool_call|>"),)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<|tool_call|>", "functools[")
    closers = ("<|/tool_call|>",)

    def call(self, marker: str) -> Wait[None]:
        """One list of calls."""
        yield from self.json_calls(is_list=marker == "functools[")
        yield from self.accept_end("<|/tool_call|>")
