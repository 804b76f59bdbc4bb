"""Functionary 3.1's calls: JSON in an element named after the function."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_name = re.compile(r"[^<>{}\n]*")


class FunctionaryV31(ChatFormat):
    """<function=NAME>{...}</function>."""

    name: ClassVar[str] = "functionary_v31"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<function=example_function_name>{",),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<function=",),
            after_name=">",
            after_arguments=("</function>",),
            between="",
            marker="<function=",
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    starts = Markers("<function=")
    closers = ("</function>",)

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        name = yield from self._name()
        while (yield from self.accept(marker)):  # the model may write the marker more than once
            name = yield from self._name()
        self.start_call(name)
        yield from self.json_arguments()
        yield from self.accept_end("</function>")

    def _name(self) -> Wait[str]:
        name = yield from self.word(_name)
        yield from self.expect(">")
        return name.strip()
