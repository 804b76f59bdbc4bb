"""Harmony, the format of gpt-oss: messages on channels. A call is a message with a recipient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llamafast.chat.enforcing.call_syntax import CallSyntax, ContentFrame
from llamafast.chat.format import ChatFormat, StreamParser
from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, TextEnd, Wait
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reasoning_tags import ReasoningTags
from llamafast.chat.tools import Tool

_FIRSTS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", " to=", "to=")
# The brace of an object ends a header that lacks <|message|>.
_HEAD_ENDS = Markers("<|message|>", "<|end|>", "<|return|>", "<|call|>", "{")
_BODY_ENDS = Markers("<|start|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
_MAX_HEAD = 300
_part = re.compile(r" |<\|(?P<mark>start|channel|constrain)\|>|to=(?P<to>[^ <]+)|(?P<word>\w+)").match
# The marks and words of a header that has no end.
_marks = re.compile(
    r"(?:<\|(?:start|channel|message|constrain)\|>\s*(?:(?:assistant|analysis|commentary|final)\b)?\s*)*"
).match
_signs = re.compile(r"[^\w<{(\[\"'`]*").match
_WORDS = ("assistant", "analysis", "commentary", "final")
_NOBODY = ("assistant", "user", "all")


@dataclass(frozen=True, slots=True)
class _Head:
    """The header of a message.

    channel: "analysis", "commentary", "final" or empty.
    recipient: the tool that the message is for. Empty: it is for the user.
    """

    channel: str = ""
    recipient: str = ""


class Harmony(ChatFormat):
    """<|channel|>analysis<|message|>...<|end|><|start|>assistant, then commentary with a recipient, or final."""

    name: ClassVar[str] = "harmony"
    template_texts: ClassVar[tuple[tuple[str, ...], ...]] = (("<|channel|>", "<|message|>", "<|start|>"),)
    priority: ClassVar[int] = 90
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

    def parser(self, prompt: str, tools: Sequence[Tool] | None) -> StreamParser:
        """A parser for what follows prompt."""
        return _Parser(prompt, tools)


class _Parser(AnswerParser):
    closers = _BODY_ENDS.texts

    def __init__(self, prompt: str, tools: Sequence[Tool] | None) -> None:
        # The prompt may end inside a header, or after a whole one. Then the message has begun.
        head, has_all_arguments, body = prompt[max(prompt.rfind("<|start|>"), 0) :].partition("<|message|>")
        is_over = any(end in body for end in ("<|end|>", "<|return|>", "<|call|>"))
        self._begun = "" if is_over or _parsed(head) is None else head
        self._is_in_body = bool(self._begun and has_all_arguments)
        self._is_damaged = False  # the text here is a header that cannot be read
        self._was_analysis = False  # that header names the analysis channel
        super().__init__(prompt, tools, ())

    def run(self) -> Wait[None]:
        """Read the whole text."""
        begun = self._begun
        head = _parsed(begun) if self._is_in_body else (yield from self._header(begun))
        while True:
            if head is not None:
                yield from self._body(head)
            else:
                yield from self._text()
            yield from self._skip_word()
            head = yield from self._header("")

    def _header(self, begun: str) -> Wait[_Head | None]:
        """Read the header of a message and its end marker. None: the text here is not a header."""
        pieces = [begun]
        self.commit()
        head, self._is_damaged = None, False
        try:
            yield from self._read_header(pieces)
        except MalformedError:
            self.roll_back()
            self._skip_marks()
        except TextEnd:
            # A header that the end of the text cuts off is dropped.
            if len(pieces) == 1 or _parsed("".join(pieces)) is None:
                self.roll_back()
                self._skip_marks()
                self.at = _end_of_signs(self.text, self.at)
            raise
        else:
            # A header with two channels or recipients says nothing but where it ends.
            head = _parsed("".join(pieces)) or _Head()
            if self.tools is None and head.recipient:  # without tools a call is text
                self.roll_back()
                head = None
        self._kept = None
        return head

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
        end = yield from self.copy(_HEAD_ENDS, pieces.append, room)
        if end == "{" and _parsed("".join(pieces)) is not None:
            self.at -= 1
        elif end != "<|message|>":
            raise MalformedError

    def _skip_word(self) -> Wait[None]:
        """Skip a role or channel that lacks its token after a message, if another token or nothing follows it."""
        word = ""
        self.commit()
        try:
            word = yield from self.peek_any(_WORDS)
            self.at += len(word)
            if word and not (yield from self.peek_any(("<|",))):
                self.roll_back()
        except TextEnd:
            if not word or self.at < len(self.text):
                self.roll_back()
            raise
        self._kept = None

    def _skip_marks(self) -> None:
        """Skip the marks of a header that cannot be read."""
        match = _marks(self.text, self.at)
        if match is not None and match.end() > self.at:
            self.begin_part()
            self._was_analysis = "analysis" in match[0]
            self._is_damaged = True
            self.at = match.end()

    def _body(self, head: _Head) -> Wait[None]:
        """Read the text of a message and its end marker."""
        self.begin_part()
        if head.recipient:
            yield from self._call(head.recipient)
        if head.channel == "analysis" and not head.recipient:
            self._end((yield from self.reasoning_text(_BODY_ENDS)))
        else:
            self._end((yield from self.copy(_BODY_ENDS, self.add_content)))

    def _call(self, name: str) -> Wait[None]:
        self.start_call(name)
        try:
            yield from self.json_arguments()
        except MalformedError:
            self.end_call(is_complete=False)
        except TextEnd:
            self.end_call(self.has_all_arguments)
            self.at = len(self.text)
            raise
        self._kept = None

    def _text(self) -> Wait[None]:
        """Read text without a header, or with one that cannot be read."""
        if self._is_damaged:
            while (end := _end_of_signs(self.text, self.at)) == len(self.text):
                self.at = end
                yield
            self.at = end
        for first in _FIRSTS:
            if (yield from self.accept(first)):
                self.at -= len(first)
                self.add_content(first)
                self.at += len(first)
                break
        if self._is_damaged and self._was_analysis:
            self._end((yield from self.reasoning_text(_BODY_ENDS)))
        else:
            self._end((yield from self.copy(_BODY_ENDS, self.add_content)))

    def _end(self, marker: str) -> None:
        if marker == "<|return|>":
            self.end_content(marker)
        self.begin_part()
        if marker in ("<|start|>", "<|channel|>"):
            self.at -= len(marker)  # it begins the next header


def _parsed(header: str) -> _Head | None:
    """The fields of a header without its end. None: it is not a header, or it names two recipients."""
    text = " ".join(header.split())
    if len(header) > _MAX_HEAD:
        return None
    at, mark, channel, num_words = 0, "start", "", 0
    recipients: set[str] = set()
    while at < len(text):
        match = _part(text, at)
        if match is None:
            return None
        at = match.end()
        if match["mark"]:
            mark = match["mark"]
        elif match["to"]:
            recipients.add(match["to"])
        elif match["word"]:
            if mark == "channel":
                channel = match["word"]
            elif not mark:
                num_words += 1
            mark = ""
    if num_words > 1 or len(recipients) > 1:
        return None
    recipient = "".join(recipients).removeprefix("functions.")
    return _Head(channel, "" if recipient in _NOBODY else recipient)


def _end_of_signs(text: str, at: int) -> int:
    """The end of the punctuation that begins at this offset."""
    match = _signs(text, at)
    return at if match is None else match.end()
