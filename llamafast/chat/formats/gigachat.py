"""GigaChat 3's calls: a separate message with JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


def _syntax(marker: str) -> CallSyntax:
    """A syntax for one call per answer, as the templates show it."""
    return CallSyntax(
        before_name=(f'{marker}{{"name": "',),
        after_name='", "arguments": ',
        after_arguments=("}",),
        marker=marker,
        has_many=False,
    )


class GigaChat(ChatFormat):
    """function call<|role_sep|> {"name": NAME, "arguments": {...}}. Version 3.1 has one token for the beginning."""

    name: ClassVar[str] = "gigachat"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("<|role_sep|>", "<|function_call|>"),
        ("<|role_sep|>", "function call"),
    )
    priority: ClassVar[int] = 50
    markers: ClassVar[tuple[str, ...]] = ("<|role_sep|>", "<|message_sep|>", "<|function_call|>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_syntax("function call<|role_sep|>\n"),)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class GigaChat31(GigaChat):
    """The format of version 3.1. Both are read in the same way, but grammars force the marker of this version."""

    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|role_sep|>", "<|function_call|>"),)
    priority: ClassVar[int] = 60
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_syntax("<|function_call|>"),)


class _Parser(JsonCallParser):
    starts = Markers("function call<|role_sep|>", "<|function_call|>")
    wrappers = ("<|message_sep|>",)

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        yield from self.json_calls()
