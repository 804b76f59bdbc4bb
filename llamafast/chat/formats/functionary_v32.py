"""Functionary 3.2's calls: every part of an answer begins with its recipient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, TextEnd, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_name = re.compile(r"[^<>{}\n]*")
_PARTS = Markers(">>>")


class FunctionaryV32(ChatFormat):
    """>>>all and text, or >>>NAME and {...}, each on its own line. The prompt may end with the first >>>."""

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
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    closers = (">>>",)

    def __init__(self, prompt: str, tools: Sequence[Tool] | None, tags: tuple[ReasoningTags, ...]) -> None:
        self._is_open = prompt.endswith(">>>")
        super().__init__(prompt, tools, tags)

    def run(self) -> Wait[None]:
        """Read the whole text."""
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
        # Text after a name that is not a JSON object is content. No text is a call if the tool needs no arguments.
        tool = next((tool for tool in self.tools or () if tool.name == name), None)
        if tool is None or tool.members.names:
            yield from self.space()
            if (yield from self.peek()) != "{":
                raise MalformedError
        self.start_call(name)
        yield from self.json_arguments()

    def add_content(self, text: str) -> None:
        """Add a piece of content, without the text that the prompt has opened."""
        if text:
            super().add_content(text)

    def _part(self, marker: str) -> Wait[None]:
        """Read what follows marker: the recipient of the part, and the arguments of a call."""
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
        """Show the consumed marker as content, because it begins no part."""
        self.at -= len(marker)
        self.add_content(marker)
        self.at += len(marker)
