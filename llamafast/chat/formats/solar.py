"""Solar Open's calls: JSON between control tokens, in separate messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame, Pattern
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_text = re.compile(r"[^<>\s]*")


class Solar(ChatFormat):
    """<|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{...}<|tool_call:end|>"""

    name: ClassVar[str] = "solar"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tool_call:begin|>", "<|tool_call:args|>"),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = (
        "<|begin|>",
        "<|end|>",
        "<|think|>",
        "<|content|>",
        "<|tool_calls|>",
        "<|calls|>",
        "<|tool_call:begin|>",
        "<|tool_call:name|>",
        "<|tool_call:args|>",
        "<|tool_call:end|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            after_reasoning="<|begin|>assistant",
            before_calls="<|tool_calls|>",
            before_name=("<|tool_call:begin|>", Pattern("[a-zA-Z0-9_-]{1,32}"), "<|tool_call:name|>"),
            after_name="<|tool_call:args|>",
            after_arguments=("<|tool_call:end|>",),
            between="",
            marker="<|tool_calls|>",
            content=ContentFrame(("<|content|>",), "<|end|><|begin|>assistant"),
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|think|>", "<|end|>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    starts = Markers("<|tool_call:begin|>")
    closers = ("<|tool_call:end|>",)
    wrappers = ("<|begin|>assistant", "<|content|>", "<|end|>", "<|tool_calls|>", "<|calls|>")

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        call_id = yield from self.word(_text)
        yield from self.expect("<|tool_call:name|>")
        name = yield from self.word(_text)
        yield from self.expect("<|tool_call:args|>")
        self.start_call(name, call_id)
        yield from self.json_arguments()
        yield from self.accept_end("<|tool_call:end|>")
