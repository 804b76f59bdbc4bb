"""The calls of Command R and R+: a JSON list in a Markdown code fence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool


class CommandR(ChatFormat):
    """Action: ```json [{"tool_name": NAME, "parameters": {...}}] ```."""

    name: ClassVar[str] = "command_r"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("Action:", '"tool_name"'),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="Action:\n```json\n[\n",
            before_name=('    {\n        "tool_name": "',),
            after_name='",\n        "parameters": ',
            after_arguments=("\n    }",),
            between=",\n",
            after_calls="\n]```",
            marker="Action:",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("Action:")
    closers = ("```",)
    name_keys = ("tool_name", "name")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list."""
        yield from self.space()
        yield from self.expect("```json")
        yield from self.json_calls()
        yield from self.accept_end("```")
