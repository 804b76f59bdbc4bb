"""Harmony, gpt-oss' format: messages on channels, calls among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from llamafast.parsing.call_syntax import CallSyntax, ContentFrame, ReasoningTags
from llamafast.parsing.chat_format import ChatFormat, StreamParser
from llamafast.parsing.machine import Machine, MalformedError, TextEnd, Wait
from llamafast.parsing.markers import Markers
from llamafast.parsing.tools import Tool

_FIRSTS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", " to=", "to=")
_HEAD_ENDS = Markers("<|message|>", "<|end|>", "<|return|>", "<|call|>")
_BODY_ENDS = Markers("<|start|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
_MAX_HEAD = 300
# Whom a message is for stands before the channel or behind it; what its text is, at the end.
_head = re.compile(
    r"(?:<\|start\|>)?\w*(?: ?to=(?P<to>[^ <]+))? ?"
    r"(?:<\|channel\|> ?(?P<channel>\w*)(?: ?to=(?P<for>[^ <]+))?)? ?(?:<\|constrain\|>)? ?\w* ?"
).fullmatch
_NOBODY = ("assistant", "user", "all")


class Harmony(ChatFormat):
    """<|channel|>analysis<|message|>...<|end|><|start|>assistant, then commentary with a recipient, or final."""

    name: ClassVar[str] = "harmony"
    markers: ClassVar[tuple[str, ...]] = (
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|constrain|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
    )
    syntaxes: ClassVar[tuple[CallSyntax, ...]] = (
        CallSyntax(
            before_name=("<|channel|>commentary to=functions.",),
            after_name=" <|constrain|>json<|message|>",
            has_many=False,
            marker="<|channel|>commentary to=",
            after_reasoning="<|start|>assistant",
            content=ContentFrame(
                ("<|channel|>final<|message|>", "<|channel|>commentary<|message|>"), "<|end|><|start|>assistant"
            ),
        ),
    )
    reasoning: ClassVar[ReasoningTags | None] = ReasoningTags("<|channel|>analysis<|message|>", "<|end|>")

    def matches(self, template: str) -> bool:
        """Whether a chat template writes this format."""
        return "<|channel|>" in template and "<|message|>" in template and "<|start|>" in template

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools)


class _Parser(Machine):
    def __init__(self, prompt: str, tools: Sequence[Tool] | None) -> None:
        # The last header of the prompt is begun, or whole: then its message is begun.
        head, is_whole, body = prompt[max(prompt.rfind("<|start|>"), 0) :].partition("<|message|>")
        is_over = any(end in body for end in ("<|end|>", "<|return|>", "<|call|>"))
        self._begun = "" if is_over or _parsed(head) is None else head
        self._is_in_body = bool(self._begun and is_whole)
        super().__init__(prompt, tools, ())

    def run(self) -> Wait[None]:
        """The whole text."""
        begun = self._begun
        match = _parsed(begun) if self._is_in_body else (yield from self._header(begun))
        while True:
            if match is not None:
                yield from self._body(match)
            else:
                yield from self._text()
            match = yield from self._header("")

    def _header(self, begun: str) -> Wait[re.Match[str] | None]:
        """A message's header, its marker too; None if what stands here is none."""
        pieces = [begun]
        self.settle()
        try:
            yield from self._read_header(pieces)
        except MalformedError:
            match = None
        except TextEnd:
            # What breaks off within a header says nothing.
            if len(pieces) == 1 or _parsed("".join(pieces)) is None:
                self.go_back()
            raise
        else:
            match = _parsed("".join(pieces))
        # Nobody asked for calls: then they are text.
        if match is None or (self.tools is None and _recipient(match)):
            self.go_back()
            match = None
        self._kept = None
        return match

    def _read_header(self, pieces: list[str]) -> Wait[None]:
        for first in _FIRSTS:
            if (yield from self.accept(first)):
                break
        else:
            raise MalformedError
        if first == "<|message|>":
            return
        pieces.append(first)
        room = max(_MAX_HEAD - sum(map(len, pieces)), 0)
        if (yield from self.copy(_HEAD_ENDS, pieces.append, room)) != "<|message|>":
            raise MalformedError

    def _body(self, head: re.Match[str]) -> Wait[None]:
        """A message's text, and what ends it."""
        self.begin_part()
        recipient = _recipient(head)
        if recipient:
            yield from self._call(recipient.removeprefix("functions."))
        if head["channel"] == "analysis" and not recipient:
            self._end((yield from self.thoughts(_BODY_ENDS)))
        else:
            self._end((yield from self.copy(_BODY_ENDS, self.add_content)))

    def _call(self, name: str) -> Wait[None]:
        self.start_call(name)
        try:
            yield from self.json_arguments()
        except MalformedError:
            self.end_call(is_complete=False)
        except TextEnd:
            self.end_call(is_complete=False)
            self.at = len(self.text)
            raise
        self._kept = None

    def _text(self) -> Wait[None]:
        """Text without a header, or with one that is none."""
        for first in _FIRSTS:
            if (yield from self.accept(first)):
                self.at -= len(first)
                self.add_content(first)
                self.at += len(first)
                break
        self._end((yield from self.copy(_BODY_ENDS, self.add_content)))

    def _end(self, marker: str) -> None:
        if marker == "<|return|>":
            self.end_content(marker)
        self.begin_part()
        if marker in ("<|start|>", "<|channel|>"):
            self.at -= len(marker)  # the next header


def _parsed(header: str) -> re.Match[str] | None:
    return _head(" ".join(header.split())) if len(header) <= _MAX_HEAD else None


def _recipient(head: re.Match[str]) -> str:
    recipient = head["to"] or head["for"] or ""
    return "" if recipient in _NOBODY else recipient
