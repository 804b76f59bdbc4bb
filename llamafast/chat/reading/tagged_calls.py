"""Calls whose arguments are bare text between tags. Models sometimes omit the closing tags."""

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
_LIKE = 0.8  # of 1: a tag with one wrong character is more similar than that


@dataclass(frozen=True, slots=True)
class ValueEnds:
    """The texts that end a value: its closing tag, or, if that is missing, the next argument or the end of the call.

    close: the closing tag.
    opener: the text that begins the next argument.
    call_closes: the tags that end a call.
    has_lines: the line breaks at both ends of a value belong to its tags.
    forbidden: tags that no value contains, except in a call that it quotes.
    call_open: the text before the name of a call. Empty: values quote no calls.
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
        """The texts that show whether a value without a closing tag had ended: that tag, openers, and calls of these
        tools.
        """
        heads = [self.call_open + tool.name for tool in tools or ()] if self.call_open else []
        return Markers(*self._closes, self.opener, *heads)

    def tag(self, marker: str) -> str:
        """One of `markers` without the line break that belongs to it."""
        return self.close if marker in self._closes else marker.removeprefix("\n")

    def is_like_close(self, text: str) -> bool:
        """Whether a text ends in something similar to the closing tag."""
        last = text.rstrip()[-len(self.close) - 1 :]
        return SequenceMatcher(None, last, self.close).ratio() >= _LIKE


class QuotedCalls:
    """The calls that a value quotes, and which of their tags are still to come."""

    __slots__ = ("_closes", "_ends", "_num_values", "has_calls")

    def __init__(self, ends: ValueEnds) -> None:
        self._ends = ends
        self._num_values = 0  # open values
        self._closes = dict.fromkeys(ends.call_closes, 0)
        self.has_calls = False

    def take(self, tag: str) -> bool:
        """Whether a tag inside the value belongs to a quoted call."""
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
    _has_looked: bool = False  # the whole text was read ahead, and no value continued

    @property
    @abstractmethod
    def ends(self) -> ValueEnds:
        """The texts that end a value."""

    @property
    @abstractmethod
    def after_call(self) -> tuple[str, ...]:
        """Texts other than content that may follow the tags that end a call."""

    @abstractmethod
    def argument_head(self) -> Wait[tuple[str, bool | None]]:
        """Read the rest of an argument's opening tag. Returns (key, whether the value is a string, if declared)."""

    def closes_call(self) -> Wait[bool]:
        """Consume the end of a call, if it is here."""
        for text in self.ends.call_closes:
            if (yield from self.accept(text)):
                return True
        return False

    def tagged_arguments(self, name: str) -> Wait[None]:
        """Read the arguments of the started call, and the end of the call. Without arguments they are {}."""
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
        if (yield from self.peek_any((self.ends.opener,))):  # the end of the call is in the wrong place
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
        """Read one argument. The text that begins it has been consumed."""
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
        """Read a value and its closing tag."""
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
                    return  # the quoted text is not a whole call
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
        """Whether another value ends or begins in the text ahead. Nothing is consumed."""
        self.commit()
        try:
            yield from self.copy(self.ends.closes_and_calls(None), list[str]().append)
        except TextEnd:
            self.roll_back()
            return False
        self.roll_back()
        return True

    def rest_of_value(self) -> Wait[str]:
        """Read the text up to a closing tag that no later call has opened, and that tag; returns the text.

        Empty: there is no such tag, so the value had ended without one. Raises MalformedError if that is not clear.
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
        """Whether a text contains more than ends of calls. A value may continue in it."""
        for tag in (*self.ends.call_closes, *self.after_call):
            text = text.replace(tag, "")
        return bool(text.strip())

    def opened_again(self, key: str) -> Wait[None]:
        """Skip the opening tag of this key if the model has repeated it, any number of times."""
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
        """Whether the value had ended before the consumed marker. If so, marker is put back; if not, it becomes a part
        of the value.
        """
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
        """Whether an opening tag inside a value begins the next argument. Raises MalformedError if unclear."""
        declared_names = self.declared_names
        if key not in self._given and (key in declared_names if declared_names else is_line):
            return True
        if is_line:
            raise MalformedError
        return False
