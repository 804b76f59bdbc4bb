"""Mistral's calls: a JSON list, or since 2025 a name and its arguments after one marker per call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, Pattern, json_list
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool

_name = re.compile(r"[^\[\]{}\n]*")


class Mistral(ChatFormat):
    """[TOOL_CALLS][{"name": NAME, "arguments": {...}}], or [TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{...} (id optional)."""

    name: ClassVar[str] = "mistral"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("[TOOL_CALLS]",),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "[TOOL_CALLS]",
        "[CALL_ID]",
        "[ARGS]",
        "[THINK]",
        "[/THINK]",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        json_list("[TOOL_CALLS][", "]", after_arguments=(Pattern('(, "id": "[a-zA-Z0-9]{9}")?'), "}")),
        CallSyntax(before_name=("[TOOL_CALLS]",), after_name="[ARGS]", between="", marker="[TOOL_CALLS]"),
        CallSyntax(
            before_name=("[TOOL_CALLS]",),
            after_name="[CALL_ID]",
            before_arguments=(Pattern("[a-zA-Z0-9]{9}"), "[ARGS]"),
            between="",
            marker="[TOOL_CALLS]",
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("[THINK]", "[/THINK]")
    other_reasoning: ClassVar[tuple[ReasoningTags, ...]] = (THINK,)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("[TOOL_CALLS]")
    closers = ("[TOOL_CALLS]",)
    id_keys = ("id",)
    ends_with_arguments = False

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list, or one call."""
        yield from self.space()
        if (yield from self.peek()) == "[":
            yield from self.json_calls()
            return
        name = yield from self.word(_name)
        call_id = None
        if (yield from self.accept("[CALL_ID]")):
            call_id = yield from self.word(_name)
        yield from self.accept("[ARGS]")
        self.start_call(name.strip(), call_id)
        yield from self.json_arguments()
