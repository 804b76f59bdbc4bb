"""Kimi K3's calls: elements of control tokens, each argument with its type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.parsing.arguments import ArgumentWriter
from llamafast.parsing.call_syntax import CallSyntax, ContentFrame, Pattern, ReasoningTags
from llamafast.parsing.chat_format import ChatFormat, StreamParser
from llamafast.parsing.machine import Machine, TextEnd, Wait
from llamafast.parsing.markers import Markers
from llamafast.parsing.tools import Tool

_attributes = re.compile(r"[^<]*")
_ARGUMENT_END = Markers("<|close|>argument<|sep|>")


class KimiK3(ChatFormat):
    """<|open|>call tool="NAME"<|sep|> <|open|>argument key="KEY" type="TYPE"<|sep|>VALUE<|close|>argument<|sep|> ..."""

    name: ClassVar[str] = "kimi_k3"
    markers: ClassVar[tuple[str, ...]] = ("<|open|>", "<|close|>", "<|sep|>")
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_calls="<|open|>tools<|sep|>",
            before_name=('<|open|>call tool="',),
            after_name='" index="',
            before_arguments=(Pattern("[1-9][0-9]?"), '"<|sep|><|open|>json type="object"<|sep|>'),
            after_arguments=("<|close|>json<|sep|><|close|>call<|sep|>",),
            between="",
            after_calls="<|close|>tools<|sep|>",
            marker="<|open|>tools<|sep|>",
            content=ContentFrame(("<|open|>response<|sep|>",), "<|close|>response<|sep|>"),
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|open|>think<|sep|>", "<|close|>think<|sep|>")

    def matches(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        return "<|open|>" in template and "<|sep|>" in template and "'argument'" in template

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools)


class _Parser(Machine):
    tags = (ReasoningTags("<|open|>think<|sep|>", "<|close|>think<|sep|>"),)
    starts = Markers("<|open|>call ")
    wrappers = (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
    )

    def call(self, marker: str) -> Wait[None]:
        """One call; its arguments are elements, or one of JSON."""
        name = _attribute((yield from self.word(_attributes)), "tool")
        yield from self.expect("<|sep|>")
        self.start_call(name)
        yield from self.space()
        if (yield from self.accept("<|open|>json ")):
            yield from self.word(_attributes)
            yield from self.expect("<|sep|>")
            yield from self.json_arguments()
            yield from self.accept_end("<|close|>json<|sep|>")
            yield from self.accept_end("<|close|>call<|sep|>")
            return
        writer = ArgumentWriter(name, self.tools)
        while not (yield from self.accept("<|close|>call<|sep|>")):
            yield from self.expect("<|open|>argument ")
            yield from self._argument(writer)
            yield from self.space()
        self.arguments(writer.close())
        self.end_call()

    def _argument(self, writer: ArgumentWriter) -> Wait[None]:
        attributes = yield from self.word(_attributes)
        yield from self.expect("<|sep|>")
        self.arguments(
            writer.begin(_attribute(attributes, "key"), is_string=_attribute(attributes, "type") == "string")
        )
        try:
            yield from self.copy(_ARGUMENT_END, lambda text: self.arguments(writer.add(text)))
        except TextEnd:
            self.arguments(writer.cut())
            raise
        self.arguments(writer.end())


def _attribute(attributes: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', attributes)
    return found[1].replace("&quot;", '"').replace("&amp;", "&") if found else ""
