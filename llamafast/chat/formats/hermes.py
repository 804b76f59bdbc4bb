"""The calls of Hermes, Qwen 2.5, Qwen 3, QwQ and many others: JSON between tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class Hermes(ChatFormat):
    """<tool_call> {"name": NAME, "arguments": {...}} </tool_call>, each on its own line."""

    name: ClassVar[str] = "hermes"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<tool_call>", '"name"'), ("<tool_call>", r"\"name\""))
    priority: ClassVar[int] = 10
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=('<tool_call>\n{"name": "',),
            after_name='", "arguments": ',
            after_arguments=("}\n</tool_call>",),
            marker="<tool_call>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<tool_call>")
    closers = ("</tool_call>",)

    def call(self, marker: str) -> Wait[None]:
        """Usually one call."""
        yield from self.json_calls()
        yield from self.accept_end("</tool_call>")
