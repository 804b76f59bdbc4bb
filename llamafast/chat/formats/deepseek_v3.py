"""The calls of DeepSeek R1, V3 and V3.1: a name and JSON between markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_name = re.compile(r"[^<>{}`\n]*")


_V31 = CallSyntax(
    before_calls="<｜tool▁calls▁begin｜>",
    before_name=("<｜tool▁call▁begin｜>",),
    after_name="<｜tool▁sep｜>",
    after_arguments=("<｜tool▁call▁end｜>",),
    between="",
    after_calls="<｜tool▁calls▁end｜>",
    marker="<｜tool▁calls▁begin｜>",
)
_R1 = replace(
    _V31,
    before_name=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>",),
    after_name="\n```json\n",
    after_arguments=("\n```<｜tool▁call▁end｜>",),
    between="\n",
)


class DeepseekV3(ChatFormat):
    """A section of calls: NAME<sep>{...}, or function<sep>NAME and JSON in a Markdown code fence."""

    name: ClassVar[str] = "deepseek_v3"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<｜tool▁calls▁begin｜>",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (_V31, _R1)

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    starts = Markers("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>")
    closers = ("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "```<｜tool▁call▁end｜>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a section. The models sometimes omit its first marker."""
        if marker == "<｜tool▁calls▁begin｜>":
            yield from self.space()
            yield from self.expect("<｜tool▁call▁begin｜>")
        while True:
            yield from self._call()
            yield from self.accept_end("<｜tool▁call▁end｜>")
            if not (yield from self.accept_end("<｜tool▁call▁begin｜>")):
                break
        yield from self.accept_end("<｜tool▁calls▁end｜>")

    def _call(self) -> Wait[None]:
        name = yield from self.word(_name)
        yield from self.expect("<｜tool▁sep｜>")
        yield from self.space()
        # R1 writes a type here, before the name.
        has_type = (yield from self.peek()) != "{" and not (yield from self.peek_any(self.closers))
        if has_type:
            name = yield from self.word(_name)
            yield from self.space()
            while (yield from self.accept("```json")):
                yield from self.space()
        self.start_call(name.strip())
        yield from self.json_arguments()
        if has_type:
            yield from self.accept_end("```")
