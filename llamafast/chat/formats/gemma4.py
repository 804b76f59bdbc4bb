"""Gemma 4's calls: bare keys, and strings in quotes that are single tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, LiteralArguments
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, Wait
from llamafast.chat.reading.literals import GEMMA, LiteralReader, Notation
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_name = re.compile(r"[^\s{}\[\]<]*")


class Gemma4(ChatFormat):
    """<|tool_call>call:NAME{key:<|"|>text<|"|>,other:1}<tool_call|>. Reasoning has a channel of its own."""

    name: ClassVar[str] = "gemma4"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tool_call>call:",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        '<|"|>',
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<|tool_call>call:",),
            after_name="{",
            arguments=LiteralArguments(":", ",", '<|"|>'),
            after_arguments=("}<tool_call|>",),
            between="",
            marker="<|tool_call>",
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|channel>thought", "<channel|>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class GemmaCallParser(AnswerParser):
    """Reads calls in a notation like call:NAME{key:value}, up to the first closer."""

    notation: Notation

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        yield from self.expect("call:")
        name = yield from self.word(_name)
        self.start_call(name)
        if not (yield from self.lacks_arguments()):
            yield from self.literal_arguments(LiteralReader(self.notation))
            yield from self.skip_stray_brackets(has_words=True)
        self.end_call(self.has_all_arguments)
        yield from self.accept_end(self.closers[0])


class _Parser(GemmaCallParser):
    starts = Markers("<|tool_call>")
    closers = ("<tool_call|>",)
    notation = GEMMA
