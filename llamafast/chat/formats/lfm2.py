"""LFM2's calls: Python calls between markers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, LiteralArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.python_calls import PythonCallParser
from llamafast.chat.tools import Tool


class Lfm2(ChatFormat):
    """<|tool_call_start|>[name(key='text', other=1)]<|tool_call_end|>."""

    name: ClassVar[str] = "lfm2"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("<|tool_call_start|>",),
        ("<|tool_list_start|>",),
        ("List of tools: [",),
    )
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<|tool_call_start|>[",
            before_name=("",),
            after_name="(",
            arguments=LiteralArguments("=", ", "),
            after_arguments=(")",),
            between=", ",
            after_calls="]<|tool_call_end|>",
            marker="<|tool_call_start|>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(PythonCallParser):
    starts = Markers("<|tool_call_start|>")
    closers = ("<|tool_call_end|>",)

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list."""
        yield from self.python_calls()
        yield from self.accept_end("<|tool_call_end|>")
