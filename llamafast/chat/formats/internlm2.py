"""The calls of InternLM 2, 2.5 and 3 and Intern-S1: a JSON object in an action of kind "plugin"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_PARAMETERS = CallSyntax(
    before_name=('<|action_start|><|plugin|>\n{"name": "',),
    after_name='", "parameters": ',
    after_arguments=("}<|action_end|>",),
    between="",
    marker="<|action_start|><|plugin|>",
)


class InternLm2(ChatFormat):
    """<|action_start|><|plugin|> {"name": NAME, "parameters": {...}}<|action_end|>. Other actions are content."""

    name: ClassVar[str] = "internlm2"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|plugin|>",),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "<|action_start|>",
        "<|action_end|>",
        "<|plugin|>",
        "<|interpreter|>",
    )
    # Some templates write "arguments".
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_PARAMETERS, replace(_PARAMETERS, after_name='", "arguments": '))

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<|action_start|>")
    closers = ("<|action_end|>",)

    def call(self, marker: str) -> Wait[None]:
        """Usually one call."""
        yield from self.space()
        yield from self.expect("<|plugin|>")
        yield from self.json_calls()
        yield from self.accept_end("<|action_end|>")
