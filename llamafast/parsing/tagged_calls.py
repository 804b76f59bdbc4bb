"""Calls whose arguments are bare text between tags, of which models leave out the closing ones."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from llamafast.parsing.arguments import ArgumentWriter
from llamafast.parsing.machine import Machine, MalformedError, TextEnd, Wait
from llamafast.parsing.markers import Markers

_LONGEST_TAG = 60  # in characters
_LIKE = 0.8  # of 1: a tag with one wrong character is more like it


@dataclass(frozen=True, slots=True)
class ValueEnds:
    """What ends a value: its closing tag, `close`; where that is missing, what begins the next argument or ends a call.

    call_closes: the tags that end calls. never: tags that no value holds. has_lines: the line breaks at a value's ends
    belong to its tags.
    """

    close: str
    opener: str = ""
    call_closes: tuple[str, ...] = ()
    has_lines: bool = False
    never: tuple[str, ...] = ()
    markers: Markers = field(init=False)

    def __post_init__(self) -> None:
        closes = ("\n" + self.close, self.close) if self.has_lines else (self.close,)
        others = [text for text in (self.opener, *self.call_closes) if text]
        object.__setattr__(self, "markers", Markers(*closes, *(f"\n{text}" for text in others), *others, *self.never))

    def is_like_close(self, text: str) -> bool:
        """Whether a text ends in something like the closing tag."""
        last = text.rstrip()[-len(self.close) - 1 :]
        return SequenceMatcher(None, last, self.close).ratio() >= _LIKE


class TaggedMachine(Machine):
    """Reads arguments between tags."""

    _given: frozenset[str] = frozenset()  # the arguments of the call so far

    @property
    @abstractmethod
    def ends(self) -> ValueEnds:
        """What ends a value."""

    @property
    @abstractmethod
    def behind_call(self) -> tuple[str, ...]:
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
        self._given = frozenset()
        while True:
            yield from self.space()
            if (yield from self.accept(self.ends.opener)):
                yield from self.argument(writer)
            elif (yield from self.closes_call()):
                break
            else:
                raise MalformedError
        self.arguments(writer.close())
        self.hold()
        yield from self.space()
        if (yield from self.standing((self.ends.opener,))):  # its end stood in the wrong place
            self.is_whole = False
            raise MalformedError
        self.end_call()

    def argument(self, writer: ArgumentWriter) -> Wait[None]:
        """One argument, behind what begins it."""
        key, is_string = yield from self.argument_head()
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

        while True:
            marker = yield from self.copy(self.ends.markers, add)
            if marker in self.ends.never:
                raise MalformedError
            if marker.endswith(self.ends.close):
                return
            if (yield from self.ends_before(marker, writer)):
                if self.ends.is_like_close("".join(last)):
                    raise MalformedError
                return

    def opened_again(self, key: str) -> Wait[None]:
        """Take the opening tag of this key as often as the model has written it again."""
        while self.ends.opener and (yield from self.standing((self.ends.opener,))):
            self.settle()
            self.at += len(self.ends.opener)
            try:
                again, _ = yield from self.argument_head()
            except MalformedError:
                again = ""
            if again != key:
                self.go_back()
                if again in self.declared:
                    raise MalformedError  # the value is missing
                return
            self._kept = None
            if self.ends.has_lines:
                yield from self.accept("\n")

    def ends_before(self, marker: str, writer: ArgumentWriter) -> Wait[bool]:
        """Whether the value was over before marker, which was taken: then marker is not, else it is of the value."""
        tag = marker.removeprefix("\n")
        key, is_over = "", False
        self.at -= len(marker)
        self.settle()
        self.at += len(marker)
        try:
            if tag == self.ends.opener:
                key, _ = yield from self.argument_head()
            else:
                yield from self.space()
                is_over = bool((yield from self.standing(self.behind_call)))
        except MalformedError:
            pass
        except TextEnd:
            is_over = tag != self.ends.opener and self.at == len(self.text)
            if not is_over:
                self.go_back()
                self.arguments(writer.add(self.text[self.at :]))
                self.at = len(self.text)
                raise
        self.go_back()
        if key and self._begins_another(key, is_line=tag != marker):
            is_over = True
        self.at += len(marker) - len(tag)
        if not is_over:
            self.arguments(writer.add(marker))
            self.at += len(tag)
        return is_over

    def _begins_another(self, key: str, *, is_line: bool) -> bool:
        """Whether an opening tag within a value is the next argument's. MalformedError if that is not clear."""
        declared = self.declared
        if key not in self._given and (key in declared if declared else is_line):
            return True
        if is_line:
            raise MalformedError
        return False
