"""Kimi K3's calls: elements of control tokens. Each argument has its type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame, Pattern
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import MalformedError, Wait
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.tagged_calls import TaggedCallParser, ValueEnds
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_TOKENS = Markers("<|open|>", "<|close|>", "<|sep|>")
_are_attributes = re.compile(r'(?:\s*\w+="[^"]*")*\s*').fullmatch
_attributes = re.compile(r"[^<]*")


class KimiK3(ChatFormat):
    """<|open|>call tool="NAME"<|sep|> <|open|>argument key="KEY" type="TYPE"<|sep|>VALUE<|close|>argument<|sep|> ..."""

    name: ClassVar[str] = "kimi_k3"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|open|>", "<|sep|>", "'argument'"),)
    priority: ClassVar[int] = 60
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

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(TaggedCallParser):
    starts = Markers("<|open|>call ")
    closers = ("<|close|>",)
    ends = ValueEnds("<|close|>argument<|sep|>", "<|open|>argument ", ("<|close|>call<|sep|>",))
    after_call = ("<|open|>call ", "<|close|>tools<|sep|>")
    wrappers = (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|>",
        "<|open|>tools<|sep|>",
        "<|close|>tools<|sep|>",
    )

    def call(self, marker: str) -> Wait[None]:
        """One call. Its arguments are elements, or one JSON object."""
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
        yield from self.tagged_arguments(name)

    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """The rest of an argument's opening tag."""
        attributes = yield from self.word(_attributes)
        yield from self.expect("<|sep|>")
        while (yield from self.accept("<|sep|>")):
            pass
        key = _attribute(attributes, "key")
        if not key:
            raise MalformedError
        return key, _attribute(attributes, "type") == "string"

    def value(self, writer: ArgumentWriter, key: str) -> Wait[None]:
        """A value and its closing tag. It contains no token of a tag."""
        yield from self.opened_again(key)
        token = yield from self.copy(_TOKENS, lambda text: self.arguments(writer.add(text)))
        self.at -= len(token)
        if (yield from self.accept(self.ends.close)):
            return
        tag = yield from self.peek_any((self.ends.opener, *self.ends.call_closes))
        self.at += len(tag)
        if not tag or not (yield from self.ends_before(tag, writer)):
            raise MalformedError


def _attribute(attributes: str, name: str) -> str:
    found = _are_attributes(attributes) and re.search(rf'\b{name}="([^"]*)"', attributes)
    return found[1].replace("&quot;", '"').replace("&amp;", "&") if found else ""
