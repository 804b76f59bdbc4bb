"""The calls of Command R7B and later Command models: a JSON list between markers. All other parts have markers too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame, Pattern
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_ACTION = "<|START_ACTION|>"


class CommandR7b(ChatFormat):
    """<|START_ACTION|>[{"tool_call_id": ID, "tool_name": NAME, "parameters": {...}}]<|END_ACTION|>."""

    name: ClassVar[str] = "command_r7b"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|START_ACTION|>",),)
    priority: ClassVar[int] = 90
    markers: ClassVar[tuple[str, ...]] = (
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<|START_ACTION|>[\n",
            before_name=('    {"tool_call_id": "', Pattern("[0-9]{1,2}"), '", "tool_name": "'),
            after_name='", "parameters": ',
            after_arguments=("}",),
            between=",\n",
            after_calls="\n]<|END_ACTION|>",
            marker="<|START_ACTION|>",
            content=ContentFrame(("<|START_RESPONSE|>",), "<|END_RESPONSE|>"),
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    closers = ("<|END_ACTION|>",)
    name_keys = ("tool_name", "name")
    id_keys = ("tool_call_id",)

    def run(self) -> Wait[None]:
        """Read the whole text. Text outside the response is not shown."""
        if self._opened is not None:
            yield from self.reasoning(self._opened.close)
        starts = (_ACTION,) if self.tools is not None else ()
        ends = Markers("<|START_RESPONSE|>", "<|END_RESPONSE|>", *starts)
        while True:
            yield from self.skip_between_parts()
            marker = yield from self.copy(ends, self.add_content)
            if marker == _ACTION:
                yield from self._try_call(marker)
            elif marker == "<|END_RESPONSE|>":
                self.end_content(marker)
            else:
                self.begin_part()

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list."""
        yield from self.json_calls()
        yield from self.accept_end("<|END_ACTION|>")
