"""Kimi K2's calls: an id that contains the name, and JSON, between markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, Pattern
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_id = re.compile(r"[^<>{}\n]*")
_name = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?").fullmatch


class KimiK2(ChatFormat):
    """A section of calls: functions.NAME:NUMBER, then {...}."""

    name: ClassVar[str] = "kimi_k2"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tool_call_argument_begin|>",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<|tool_calls_section_begin|>",
            before_name=("<|tool_call_begin|>functions.",),
            after_name=":",
            before_arguments=(Pattern("[0-9]{1,2}"), "<|tool_call_argument_begin|>"),
            after_arguments=("<|tool_call_end|>",),
            between="",
            after_calls="<|tool_calls_section_end|>",
            marker="<|tool_calls_section_begin|>",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    starts = Markers("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    closers = ("<|tool_call_end|>", "<|tool_calls_section_end|>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a section. The model sometimes omits its first marker."""
        if marker == "<|tool_calls_section_begin|>":
            yield from self.space()
            yield from self.expect("<|tool_call_begin|>")
        while True:
            yield from self.space()
            call_id = (yield from self.word(_id)).strip()
            yield from self.expect("<|tool_call_argument_begin|>")
            name = _name(call_id)
            if name is None:
                raise MalformedError
            self.start_call(name[1], call_id)
            yield from self.json_arguments()
            yield from self.accept_end("<|tool_call_end|>")
            if not (yield from self.accept_end("<|tool_call_begin|>")):
                break
        yield from self.accept_end("<|tool_calls_section_end|>")
