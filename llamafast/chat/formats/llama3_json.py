"""Llama 3's calls: JSON that is the whole answer, or that follows a marker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.bare_calls import BareCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class Llama3Json(ChatFormat):
    """{"name": NAME, "parameters": {...}}, also after <|python_tag|> or <|python_start|>. ";" separates several."""

    name: ClassVar[str] = "llama3_json"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("<|start_header_id|>", '"parameters"'),
        ("<|start_header_id|>", r"\"parameters\""),
        ("<|header_start|>", '"parameters"'),
        ("<|header_start|>", r"\"parameters\""),
    )
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(before_name=('{"name": "',), after_name='", "parameters": ', after_arguments=("}",), between="; "),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(BareCallParser):
    beginnings = ("{",)
    keys = ("type", "function", "name", "parameters", "arguments", "id")
    _is_python = False
    starts = Markers("<|python_tag|>", "<|python_start|>")

    def call(self, marker: str) -> Wait[None]:
        """One call. After the marker it may be NAME.call(key="text")."""
        self.is_bare = marker in self.beginnings
        self._is_python = False
        if self.is_bare:
            self.at -= 1
            yield from self.json_call()
            return
        yield from self.space()
        if (yield from self.peek()) == "{":
            yield from self.json_calls()
            yield from self.accept_end("<|python_end|>")
            return
        self._is_python = True
        yield from self.python_call()

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call is read. Built-in tools are written as methods. Other Python is code, not a call."""
        if self._is_python and not name.endswith(".call"):
            raise MalformedError
        super().start_call(name.removesuffix(".call") if self._is_python else name, call_id)
