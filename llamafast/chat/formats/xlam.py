"""xLAM's calls: a JSON list that is the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.bare_calls import BareCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_FENCE = "```json"
_CLOSES = {_FENCE: "```", "<tool_call>": "</tool_call>"}


class Xlam(ChatFormat):
    """[{"name": NAME, "arguments": {...}}, ...], in a fence, after [TOOL_CALLS], or between <tool_call> tags."""

    name: ClassVar[str] = "xlam"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("xLAM",),
        ('[{"name": "tool_call_name"',),
        (r"[{\"name\": \"tool_call_name\"",),
    )
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = ("<think>", "</think>", "[TOOL_CALLS]", "<tool_call>", "</tool_call>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="[",
            before_name=('{"name": "',),
            after_name='", "arguments": ',
            after_arguments=("}",),
            between=", ",
            after_calls="]",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(BareCallParser):
    beginnings = ("[", "{", _FENCE)
    keys = ("type", "function", "name", "arguments", "parameters", "id")
    starts = Markers("[TOOL_CALLS]", "<tool_call>")
    closers = ("```", "</tool_call>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list. A code fence may also be part of other answers."""
        self.is_bare = marker in self.beginnings
        if marker in ("[", "{"):
            self.at -= 1
        yield from self.json_calls()
        if marker in _CLOSES:
            yield from self.accept_end(_CLOSES[marker])
