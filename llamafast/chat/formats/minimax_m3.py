"""MiniMax M3's calls: one element per parameter, and inside it one per value of an object or list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import ClassVar

from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, TextEnd, Wait
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.value_schema import ValueSchema
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_TAG = "]<]minimax[>["  # a token that precedes every tag
_ends = Markers(_TAG)
_AFTER_CALL = (f"{_TAG}<invoke ", f"{_TAG}</tool_call>")
_name = re.compile(r'[^<>"\n]*')
_MAX_DEPTH = 50
_OBJECT = frozenset({"object"})


class MiniMaxM3(ChatFormat):
    """<tool_call> <invoke name="NAME"><KEY>VALUE</KEY></invoke> </tool_call>, with a token before each tag."""

    name: ClassVar[str] = "minimax_m3"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = ((_TAG,),)
    priority: ClassVar[int] = 60
    markers: ClassVar[tuple[str, ...]] = ("<mm:think>", "</mm:think>", _TAG, "<tool_call>", "</tool_call>")
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<mm:think>", "</mm:think>")

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools, self.tags)


class _Parser(AnswerParser):
    starts = Markers(f"{_TAG}<tool_call>")

    def call(self, marker: str) -> Wait[None]:
        """All calls of an answer."""
        while True:
            yield from self.space()
            yield from self.expect(f'{_TAG}<invoke name="')
            name = yield from self.word(_name)
            yield from self.expect('">')
            self.start_call(name)
            yield from self._parameters(ArgumentWriter(name, self.tools))
            yield from self.space()
            if (yield from self.peek_any((_TAG,))) and not (yield from self.peek_any(_AFTER_CALL)):
                self.has_all_arguments = False  # the end of the call is in the wrong place
                raise MalformedError
            self.end_call()
            if (yield from self.accept_end(f"{_TAG}</tool_call>")):
                return

    def _parameters(self, writer: ArgumentWriter) -> Wait[None]:
        self._given: set[str] = set()
        while True:
            yield from self.space()
            yield from self.expect(f"{_TAG}<")
            if (yield from self.accept("/invoke>")):
                break
            key = yield from self.word(_name)
            yield from self.expect(">")
            if key in self._given:
                raise MalformedError
            self.arguments(writer.begin(key))
            self._given.add(key)
            try:
                nested = yield from self._value(key, writer)
            except TextEnd:
                self.arguments(writer.cut())
                raise
            self.arguments(nested if nested else writer.end())
        self.arguments(writer.close())
        self.hold_back_closer()

    def _value(self, key: str, writer: ArgumentWriter) -> Wait[str]:
        """Read a parameter up to its closing tag. Returns nested values as JSON; "" for text, which is passed on."""
        texts: list[str] = []

        def add(text: str) -> None:
            texts.append(text)
            self.arguments(writer.add(text))

        yield from self.copy(_ends, add)
        self.at -= len(_TAG)
        self.commit()
        self.at += len(_TAG)
        if (yield from self.accept(f"</{key}>")):
            return ""
        text = "".join(texts).strip()
        if text:  # text without tags inside, so the closing tag is missing
            nexts = ("</invoke>", *(f"<{name}>" for name in self.declared_names - self._given))
            if text.endswith(f"</{key}>") or not (yield from self.peek_any(nexts)):
                raise MalformedError
            self.roll_back()
            return ""
        if writer.is_streaming:
            raise MalformedError
        return (yield from self._members(key, writer.schema, 0))

    def _members(self, key: str, schema: ValueSchema, depth: int) -> Wait[str]:
        """An object or a list as JSON. The token before its first tag has been consumed."""
        members: list[tuple[str, str]] = []
        while not (yield from self.accept(f"</{key}>")):
            yield from self.expect("<")
            name = yield from self.word(_name)
            yield from self.expect(">")
            if depth == _MAX_DEPTH:
                raise MalformedError
            within = schema.item() if name == "item" and schema.types != _OBJECT else schema.member(name)
            members.append((name, (yield from self._element(name, within, depth + 1))))
            yield from self.space()
            yield from self.expect(_TAG)
        if all(name == "item" for name, _ in members) and schema.types != _OBJECT:
            return f"[{', '.join(value for _, value in members)}]"
        return "{" + ", ".join(f"{encode_basestring(name)}: {value}" for name, value in members) + "}"

    def _element(self, key: str, schema: ValueSchema, depth: int) -> Wait[str]:
        pieces: list[str] = []
        yield from self.copy(_ends, pieces.append)
        if (yield from self.accept(f"</{key}>")):
            return schema.value("".join(pieces))
        return (yield from self._members(key, schema, depth))
