"""Apertus' calls: a list of objects, each with the name as its only key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.json_calls import JsonCallParser
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool


class Apertus(ChatFormat):
    """<|tools_prefix|>[{"NAME": {...}}]<|tools_suffix|>; reasoning between <|inner_prefix|> and <|inner_suffix|>."""

    name: ClassVar[str] = "apertus"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|tools_prefix|>",),)
    priority: ClassVar[int] = 80
    markers: ClassVar[tuple[str, ...]] = (
        "<|inner_prefix|>",
        "<|inner_suffix|>",
        "<|tools_prefix|>",
        "<|tools_suffix|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<|tools_prefix|>[",
            before_name=('{"',),
            after_name='": ',
            after_arguments=("}",),
            between=", ",
            after_calls="]<|tools_suffix|>",
            marker="<|tools_prefix|>",
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(JsonCallParser):
    starts = Markers("<|tools_prefix|>")
    closers = ("}", "<|tools_suffix|>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of a list."""
        yield from self.space()
        yield from self.expect("[")
        while True:
            yield from self.space()
            yield from self.expect("{")
            yield from self.space()
            name = yield from self.json_string()
            yield from self.space()
            yield from self.expect(":")
            self.start_call(name)
            if (yield from self.lacks_arguments()):
                yield from self.accept("}")
                yield from self.skip_stray_brackets('":{', "}")
            else:
                yield from self.json_object()
                yield from self._end_object(self.scanner.is_clear)
            self.end_call(self.has_all_arguments)
            if not (yield from self.accept_end(",")):
                break
        yield from self.accept_end("]")
        yield from self.accept_end("<|tools_suffix|>")

    def _end_object(self, is_clear: bool) -> Wait[None]:
        """The closing brace of a call. is_clear: if a brace is missing, it is this one."""
        yield from self.space()
        if (yield from self.accept("}")):
            yield from self.skip_stray_brackets('":', "}")
            return
        self.has_all_arguments = False
        if not is_clear or not (yield from self.peek_any((",", "]", *self.closers))):
            raise MalformedError
        self.commit()
        try:
            if (yield from self.accept(",")):
                yield from self.space()
                yield from self.expect("{")
        finally:
            self.roll_back()
        self.has_all_arguments = True
