"""Llama 3's calls: JSON that is the whole answer, or stands behind a marker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.parsing.bare_calls import BareMachine
from llamafast.parsing.call_syntax import CallSyntax
from llamafast.parsing.chat_format import ChatFormat, StreamParser
from llamafast.parsing.machine import MalformedError, Wait
from llamafast.parsing.markers import Markers
from llamafast.parsing.tools import Tool

_KEYS = ("type", "function", "name", "parameters", "arguments", "id")


class Llama3Json(ChatFormat):
    """{"name": NAME, "parameters": {...}}, also behind <|python_tag|>; several with ";" between them."""

    name: ClassVar[str] = "llama3_json"
    markers: ClassVar[tuple[str, ...]] = ("<|python_tag|>",)
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(before_name=('{"name": "',), after_name='", "parameters": ', after_arguments=("}",), between="; "),
    )

    def matches(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        return "<|start_header_id|>" in template and '"parameters"' in template

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools)


class _Parser(BareMachine):
    first = "{"
    _is_python = False
    starts = Markers("<|python_tag|>")

    def call(self, marker: str) -> Wait[None]:
        """One call; behind the marker also NAME.call(key="text")."""
        self.is_bare = marker == self.first
        self._is_python = False
        if self.is_bare:
            self.at -= 1
            yield from self.json_call()
            return
        yield from self.space()
        if (yield from self.peek()) == "{":
            yield from self.json_calls()
            return
        self._is_python = True
        yield from self.python_call()

    def _member(self, key: str) -> Wait[None]:
        if self.is_bare and key not in _KEYS:  # an answer in JSON need not wait for its end
            raise MalformedError
        yield from super()._member(key)

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call is read; Llama's own tools are written as methods, all else in Python is code."""
        if self._is_python and not name.endswith(".call"):
            raise MalformedError
        super().start_call(name.removesuffix(".call") if self._is_python else name, call_id)
