"""Functionary 3.2's calls: every part of an answer says whom it is for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, TextEnd, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_name = re.compile(r"[^<>{}\n]*")
_PARTS = Markers(">>>")


class FunctionaryV32(ChatFormat):
    """>>>all and text, >>>NAME and {...}, each on its line; the prompt may end in the first >>>."""

    name: ClassVar[str] = "functionary_v32"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = ((">>>all",),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<think>",
        "</think>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=(">>>",),
            after_name="\n",
            marker=">>>",
            opening=">>>",
            content=ContentFrame((">>>all\n",), ""),
        ),
    )

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools)


class _Parser(AnswerParser):
    closers = (">>>",)

    def __init__(self, prompt: str, tools: Sequence[Tool] | None) -> None:
        self._is_open = prompt.endswith(">>>")
        super().__init__(prompt, tools)

    def run(self) -> Wait[None]:
        """The whole text."""
        if self._is_open:
            yield from self._part("")
        elif self._opened is not None:
            yield from self.reasoning(self._opened.close)
        else:
            yield from self.skip_between_parts()
        while True:
            marker = yield from self.copy(_PARTS, self.add_content)
            yield from self._part(marker)

    def call(self, marker: str) -> Wait[None]:
        """One call."""
        name = (yield from self.word(_name)).strip()
        yield from self.expect("\n")
        # Behind a name other text than arguments is content, unless it is nothing and the tool takes nothing.
        tool = next((tool for tool in self.tools or () if tool.name == name), None)
        if tool is None or tool.members.names:
            yield from self.space()
            if (yield from self.peek()) != "{":
                raise MalformedError
        self.start_call(name)
        yield from self.json_arguments()

    def add_content(self, text: str) -> None:
        """More content; what the prompt has opened is no part of it."""
        if text:
            super().add_content(text)

    def _part(self, marker: str) -> Wait[None]:
        """What follows marker: whom the part is for, and a call's arguments."""
        try:
            is_for_all = yield from self.accept("all\n")
        except TextEnd:
            self._show(marker)
            raise
        if is_for_all:
            self.end_content(marker + "all\n")
        elif self.tools is not None:
            yield from self._try_call(marker)
        else:
            self._show(marker)

    def _show(self, marker: str) -> None:
        """The marker, which was taken, is none."""
        self.at -= len(marker)
        self.add_content(marker)
        self.at += len(marker)
