"""Calls whose arguments are bare text between tags, of which models leave out the closing ones."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from llamafast.chat.reading.answer_parser import AnswerParser, MalformedError, TextEnd, Wait
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.reading.markers import Markers
from llamafast.chat.tools import Tool

_LONGEST_TAG = 60  # in characters
_LIKE = 0.8  # of 1: a tag with one wrong character is more like it


@dataclass(frozen=True, slots=True)
class ValueEnds:
    """What ends a value: its closing tag, `close`; where that is missing, what begins the next argument or ends a call.

    call_closes: the tags that end calls. never: tags that no value holds, but in a call that it quotes. has_lines: the
    line breaks at a value's ends belong to its tags. call_open: what stands before a call's name; "": none is quoted.
    """

    close: str
    opener: str = ""
    call_closes: tuple[str, ...] = ()
    has_lines: bool = False
    forbidden: tuple[str, ...] = ()
    call_open: str = ""
    markers: Markers = field(init=False)

    def __post_init__(self) -> None:
        others = [text for text in (self.opener, *self.call_closes) if text]
        quoted = [self.call_open] if self.call_open else []
        others = [*(f"\n{text}" for text in others), *others, *self.forbidden, *quoted]
        object.__setattr__(self, "markers", Markers(*self._closes, *others))

    @property
    def _closes(self) -> tuple[str, ...]:
        return ("\n" + self.close, self.close) if self.has_lines else (self.close,)

    def closes_and_calls(self, tools: Sequence[Tool] | None) -> Markers:
        """What tells whether a value was over that has no closing tag: that tag, openers, and calls of these tools."""
        heads = [self.call_open + tool.name for tool in tools or ()] if self.call_open else []
        return Markers(*self._closes, self.opener, *heads)

    def tag(self, marker: str) -> str:
        """One of `markers` without the line break that belongs to it."""
        return self.close if marker in self._closes else marker.removeprefix("\n")

    def is_like_close(self, text: str) -> bool:
        """Whether a text ends in something like the closing tag."""
        last = text.rstrip()[-len(self.close) - 1 :]
        return SequenceMatcher(None, last, self.close).ratio() >= _LIKE


class QuotedCalls:
    """The calls that a value quotes: which of their tags are to come."""

    __slots__ = ("_closes", "_ends", "_num_values", "has_calls")

    def __init__(self, ends: ValueEnds) -> None:
        self._ends = ends
        self._num_values = 0  # that are open
        self._closes = dict.fromkeys(ends.call_closes, 0)
        self.has_calls = False

    def take(self, tag: str) -> bool:
        """Whether a tag within the value belongs to a call that it quotes."""
        if tag == self._ends.call_open:
            self.has_calls = True
            for text in self._closes:
                self._closes[text] += 1
            return True
        if tag == self._ends.close:
            is_quoted = self._num_values > 0
            self._num_values -= is_quoted
            return is_quoted
        if tag in self._closes:
            is_quoted = self._closes[tag] > 0
            self._closes[tag] -= is_quoted
            return is_quoted
        is_quoted = any(self._closes[text] > 0 for text in self._ends.call_closes[:1])
        self._num_values += is_quoted and tag == self._ends.opener
        return is_quoted


class TaggedCallParser(AnswerParser):
    """Reads arguments between tags."""

    _given: frozenset[str] = frozenset()  # the arguments of the call so far
    _is_mended: bool = False  # a value of the call ended where the next argument began
    _has_looked: bool = False  # the whole text was read ahead, and no value went on

    @property
    @abstractmethod
    def ends(self) -> ValueEnds:
        """What ends a value."""

    @property
    @abstractmethod
    def after_call(self) -> tuple[str, ...]:
        """What may stand behind the tags that end a call, content aside."""

    @abstractmethod
    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """The rest of an argument's opening tag: (key, whether it is a string; None: the tag does not say)."""

    def closes_call(self) -> Wait[bool]:
        """Take what ends a call, if it stands here."""
        for text in self.ends.call_closes:
            if (yield from self.accept(text)):
                return True
        return False

    def tagged_arguments(self, name: str) -> Wait[None]:
        """The arguments of the call that was started, and the call's end. Where there are none they are {}."""
        writer = ArgumentWriter(name, self.tools)
        self._given, self._is_mended = frozenset(), False
        while True:
            yield from self.space()
            if (yield from self.accept(self.ends.opener)):
                yield from self.argument(writer)
            elif (yield from self.closes_call()):
                break
            else:
                raise MalformedError
        self.arguments(writer.close())
        self.hold_back_closer()
        yield from self.space()
        if (yield from self.peek_any((self.ends.opener,))):  # its end stood in the wrong place
            self.has_all_arguments = False
            raise MalformedError
        if self._is_mended:
            self.has_all_arguments = False
            if (yield from self.rest_of_value()):
                self.roll_back()
                raise MalformedError
            self.has_all_arguments = True
        self.end_call()

    def argument(self, writer: ArgumentWriter) -> Wait[None]:
        """One argument, behind what begins it."""
        key, is_string = yield from self.argument_head()
        if key in self._given:
            raise MalformedError
        self.arguments(writer.begin(key, is_string=is_string))
        self._given |= {key}
        try:
            yield from self.value(writer, key)
        except TextEnd:
            self.arguments(writer.cut())
            raise
        self.arguments(writer.end())

    def value(self, writer: ArgumentWriter, key: str) -> Wait[None]:
        """A value and its closing tag."""
        if self.ends.has_lines:
            yield from self.accept("\n")
        yield from self.opened_again(key)
        last = deque[str](maxlen=_LONGEST_TAG)

        def add(text: str) -> None:
            last.append(text)
            self.arguments(writer.add(text))

        quotes = QuotedCalls(self.ends)
        while True:
            marker = yield from self.copy(self.ends.markers, add)
            tag = self.ends.tag(marker)
            if quotes.take(tag):
                if tag == self.ends.close and not (yield from self.has_more_tags()):
                    return  # what it quotes is no whole call
                add(marker)
                continue
            if tag in self.ends.forbidden:
                raise MalformedError
            if tag == self.ends.close:
                return
            if not (yield from self.ends_before(marker, writer)):
                continue
            if self.ends.is_like_close("".join(last)):
                raise MalformedError
            if tag == self.ends.opener:
                self._is_mended = True
                return
            rest = yield from self.rest_of_value()
            if rest:
                add(marker[: -len(tag)] + rest)
                self._kept = None
            elif quotes.has_calls:
                raise MalformedError
            return

    def has_more_tags(self) -> Wait[bool]:
        """Whether another value ends or begins in the text ahead, of which nothing is taken."""
        self.commit()
        try:
            yield from self.copy(self.ends.closes_and_calls(None), list[str]().append)
        except TextEnd:
            self.roll_back()
            return False
        self.roll_back()
        return True

    def rest_of_value(self) -> Wait[str]:
        """Take what stands up to a closing tag that none of the calls ahead has opened, and that tag; gives the text.

        Empty: there is no such tag, so a value without one was over. MalformedError if that is not clear.
        """
        pieces, closes_and_calls = list[str](), self.ends.closes_and_calls(self.tools)
        num_open, has_calls, has_opener = 0, False, False
        self.commit()
        try:
            while True:
                marker = yield from self.copy(closes_and_calls, pieces.append)
                tag = self.ends.tag(marker)
                if tag == self.ends.close and not num_open:
                    break
                if tag == self.ends.opener:
                    num_open += has_calls
                    has_opener = has_opener or not has_calls
                elif tag == self.ends.close:
                    num_open -= 1
                else:
                    has_calls = True
                    if self._has_looked:
                        self.roll_back()
                        return ""
                pieces.append(marker)
        except TextEnd:
            self.roll_back()
            self._has_looked = True
            if not has_calls and self._is_text("".join(pieces)):
                raise MalformedError from None
            return ""
        if has_opener:
            self.roll_back()
            self._has_looked = True
            raise MalformedError
        return "".join(pieces)

    def _is_text(self, text: str) -> bool:
        """Whether there is more in a text than what ends calls: a value may go on in it."""
        for tag in (*self.ends.call_closes, *self.after_call):
            text = text.replace(tag, "")
        return bool(text.strip())

    def opened_again(self, key: str) -> Wait[None]:
        """Take the opening tag of this key as often as the model has written it again."""
        while self.ends.opener and (yield from self.peek_any((self.ends.opener,))):
            self.commit()
            self.at += len(self.ends.opener)
            try:
                again, _ = yield from self.argument_head()
            except MalformedError:
                again = ""
            if again != key:
                self.roll_back()
                if again in self.declared_names:
                    raise MalformedError  # the value is missing
                return
            self._kept = None
            if self.ends.has_lines:
                yield from self.accept("\n")

    def ends_before(self, marker: str, writer: ArgumentWriter) -> Wait[bool]:
        """Whether the value was over before marker, which was taken: then marker is not, else it is of the value."""
        tag = self.ends.tag(marker)
        key, is_over = "", False
        self.at -= len(marker)
        self.commit()
        self.at += len(marker)
        try:
            if tag == self.ends.opener:
                key, _ = yield from self.argument_head()
            else:
                yield from self.space()
                is_over = bool((yield from self.peek_any(self.after_call)))
        except MalformedError:
            pass
        except TextEnd:
            is_over = tag != self.ends.opener and self.at == len(self.text)
            if not is_over:
                self.roll_back()
                self.arguments(writer.add(self.text[self.at :]))
                self.at = len(self.text)
                raise
        self.roll_back()
        if key and self._begins_another(key, is_line=tag != marker):
            is_over = True
        self.at += len(marker) - len(tag)
        if not is_over:
            self.arguments(writer.add(marker))
            self.at += len(tag)
        return is_over

    def _begins_another(self, key: str, *, is_line: bool) -> bool:
        """Whether an opening tag within a value is the next argument's. MalformedError if that is not clear."""
        declared_names = self.declared_names
        if key not in self._given and (key in declared_names if declared_names else is_line):
            return True
        if is_line:
            raise MalformedError
        return False
