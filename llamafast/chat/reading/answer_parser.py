"""AnswerParser: reads answers with generators that wait for more text, so that text may arrive in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.chat.format import StreamParser
from llamafast.chat.reading.literals import LiteralReader
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.reasoning_calls import ReasoningCalls
from llamafast.chat.reading.text_reader import MalformedError, TextEnd, TextReader, Wait
from llamafast.chat.reasoning_tags import THINK, ReasoningTags
from llamafast.chat.tools import Tool

__all__ = ["AnswerParser", "MalformedError", "TextEnd", "Wait"]

NO_MARKERS = Markers()


class AnswerParser(TextReader, StreamParser):
    """Parses the answer of one sequence: reasoning, then content and calls in any order.

    A format defines the texts that begin a call (`starts`) and reads a call in `call`. It uses the methods of
    TextReader and those below, which consume text and wait for more if they need it. `call` calls `start_call`,
    `arguments` and `end_call`, in this order. It raises MalformedError where the text is not in the format. This class
    then does what the contract of StreamParser says.
    """

    starts: Markers = NO_MARKERS
    # Texts around content that are not shown.
    wrappers: tuple[str, ...] = ()
    # Texts that may follow the arguments of a call.
    closers: tuple[str, ...] = ()

    def __init__(self, prompt: str, tools: Sequence[Tool] | None, tags: tuple[ReasoningTags, ...] = (THINK,)) -> None:
        """tags: those of reasoning, which may be at the beginning and after calls."""
        super().__init__()
        self.tags = tags
        self.tools = tools
        self._events: list[Event] = []
        self._num_calls = 0
        self.has_all_arguments = False  # of the call that is being read; set by the format
        self._is_in_call = False
        self._tool: Tool | None = None  # the tool that is being called, if the request declares it
        self._held = ""  # the text that closes the arguments, held back until the call ends
        self._spaces: list[str] = []  # white space that may be between two parts
        self._drops_space = False  # the next content follows another part
        self._stops = _stops(self.starts.texts if tools is not None else (), self.wrappers)
        prompt = prompt.rstrip()
        self._opened = next((tags for tags in self.tags if prompt.endswith(tags.open)), None)
        self._drops_space = any(prompt.endswith(tags.close) for tags in self.tags)
        self._steps = self._guarded()
        next(self._steps)

    def feed(self, text: str) -> list[Event]:
        """The events that are certain with this text. text: the next piece of the model's text."""
        self.add(text)
        next(self._steps)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """The remaining events, after the model has stopped. It is called once, as the last method."""
        try:
            # A text that proves not to be a call may contain the beginning of another call.
            while True:
                self._steps.throw(TextEnd)
        except StopIteration:
            return self._events

    def run(self) -> Wait[None]:
        """Read the whole text."""
        if self._opened is not None:
            yield from self.reasoning(self._opened.close)
        is_between = True
        while True:
            if is_between:
                yield from self.skip_between_parts()
            marker = yield from self.copy(self._stops, self.add_content)
            if marker in self.wrappers:
                self.begin_part()
                is_between = True
            else:
                is_between = yield from self._try_call(marker)

    def call(self, marker: str) -> Wait[None]:
        """Read what follows marker, which is one of `starts`: one or more calls, up to the end of the last."""
        raise MalformedError
        yield

    # Methods for formats

    def literal_arguments(self, reader: LiteralReader) -> Wait[None]:
        """Pass on one object in another notation than JSON as the arguments of the call, piece by piece."""
        while True:
            fragment, self.at = reader.read(self.text, self.at)
            self.arguments(fragment)
            if reader.is_broken:
                raise MalformedError
            if reader.is_complete:
                self.hold_back_closer()
                return
            yield

    def json_arguments(self) -> Wait[None]:
        """Read the arguments of the started call, which are one JSON object, and end the call."""
        if not (yield from self.lacks_arguments()):
            yield from self.json_object()
            yield from self.skip_stray_brackets()
        self.end_call(self.has_all_arguments)

    def json_object(self) -> Wait[None]:
        """Pass on a JSON object as the arguments of the call. Its last brace may be missing before a closer."""
        if (yield from self.peek()) != "{":
            raise MalformedError
        try:
            yield from self.json(self.arguments)
        except MalformedError:
            if not self.scanner.lacks_a_brace or not (yield from self.peek_any(self.closers)):
                raise
            self.arguments("}")
        self.hold_back_closer()

    def lacks_arguments(self) -> Wait[bool]:
        """Whether the call ends where its arguments should begin. Then they are {} if its tool requires none."""
        try:
            yield from self.space()
            if not (yield from self.peek_any(self.closers)):
                return False
        except TextEnd:
            # The text may have been cut off here, so only a tool without arguments counts as called.
            if self._tool is not None and not self._tool.members.names:
                self.pass_empty_arguments()
            raise
        if not self.needs_arguments:
            self.pass_empty_arguments()
        return True

    @property
    def needs_arguments(self) -> bool:
        """Whether the called tool requires arguments."""
        return self._tool is not None and not self._tool.members.may_be_empty

    @property
    def declared_names(self) -> frozenset[str]:
        """The names of the arguments that the called tool declares."""
        return frozenset() if self._tool is None else self._tool.members.names

    def pass_empty_arguments(self) -> None:
        """Pass on {} as the arguments of the call."""
        self.arguments("{}")
        self.hold_back_closer()

    def skip_stray_brackets(self, marks: str = ',":', strays: str = "}]", *, has_words: bool = False) -> Wait[None]:
        """Skip superfluous closing brackets after the arguments.

        Raises MalformedError if a character in marks follows, which shows that the arguments had not ended. has_words:
        a word shows that too.
        """
        while True:
            yield from self.space()
            char = yield from self.peek()
            if char in marks or (has_words and char.isalnum()):
                self.has_all_arguments = False
                raise MalformedError
            if char not in strays:
                return
            self.at += 1

    def hold_back_closer(self) -> None:
        """Mark the arguments as complete. Their last character is held back until the call ends, since it may be
        malformed.
        """
        last = self._events[-1]
        assert isinstance(last, CallArguments)
        last.fragment, self._held = last.fragment[:-1], last.fragment[-1]
        if not last.fragment:
            self._events.pop()
        self.has_all_arguments = True

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call has been read. Raises MalformedError if the name is empty."""
        if not name:
            raise MalformedError
        self._kept = None
        self.begin_part()
        self._is_in_call, self.has_all_arguments = True, False
        self._tool, self._held = next((tool for tool in self.tools or () if tool.name == name), None), ""
        self._events.append(CallStart(self._num_calls, name, call_id))

    def arguments(self, fragment: str) -> None:
        """Add a piece of the arguments of the call."""
        last = self._events[-1] if self._events else None
        if isinstance(last, CallArguments):
            last.fragment += fragment
        elif fragment:
            self._events.append(CallArguments(self._num_calls, fragment))

    def end_call(self, is_complete: bool = True) -> None:
        """The call has ended. Another may follow before the text that closes the marker."""
        if is_complete and self._held:
            self.arguments(self._held)
        self._held = ""
        self._events.append(CallEnd(self._num_calls, is_complete))
        self._num_calls += 1
        self._is_in_call = False
        self.commit()

    def reasoning(self, close: str) -> Wait[None]:
        """Read reasoning up to its closing tag. Calls inside it count only if the text ends directly after them."""
        self.begin_part()
        yield from self._opened_again(close)
        draft: ReasoningCalls | None = None

        def add(text: str) -> None:
            nonlocal draft
            if draft is None or not draft.add(text):
                self.add_reasoning(text if draft is None else draft.text)
                draft = None

        ends = Markers(close, *(self._stops.texts if self.tools else ()))
        try:
            # This runs for every token, so text goes directly to add_reasoning while there is no draft.
            while (marker := (yield from self.reasoning_text(ends, add if draft else self.add_reasoning))) != close:
                draft = draft or ReasoningCalls(type(self)("", self.tools, self.tags), self.tools or ())
                add(marker)
        except TextEnd:
            calls = [] if draft is None else draft.calls(self._num_calls)
            if calls:
                draft = None
                self._events += calls
                self._num_calls += sum(isinstance(event, CallEnd) for event in calls)
            raise
        finally:
            if draft is not None:
                self.add_reasoning(draft.text)
            self.begin_part()

    def _opened_again(self, close: str) -> Wait[None]:
        """Skip an opening tag that the model has repeated. close: the closing tag of the reasoning."""
        self.is_reasoning = True
        try:
            yield from self.space()
            for tags in self.tags:
                if tags.close == close and (yield from self.accept(tags.open)):
                    return
        except TextEnd:
            self.add_reasoning(self.text[self.at :])
            self.at = len(self.text)
            raise
        finally:
            self.is_reasoning = False

    def reasoning_text(self, ends: Markers, sink: Callable[[str], object] | None = None) -> Wait[str]:
        """Read the text of reasoning and its end marker; returns the marker. sink: receives the text."""
        self.is_reasoning = True
        try:
            return (yield from self.copy(ends, sink or self.add_reasoning))
        finally:
            self.is_reasoning = False

    def skip_between_parts(self) -> Wait[None]:
        """Skip white space and read reasoning, between two parts."""
        while True:
            start = self.at
            self.at = self.space_end()
            if self.at > start and not self._drops_space:
                self._spaces.append(self.text[start : self.at])
            if self.at == len(self.text):
                yield
                continue
            for tags in self.tags:
                if (yield from self.accept(tags.open)):
                    yield from self.reasoning(tags.close)
                    break
            else:
                return

    def begin_part(self) -> None:
        """A new part begins. White space between two parts belongs to neither."""
        self._spaces.clear()
        self._drops_space = True

    def add_content(self, text: str) -> None:
        """Add a piece of content, which begins at text[at]."""
        start = self._num_cut + self.at
        if not self._drops_space and not self._spaces and not text[-1].isspace():
            self._events.append(Content(text, start))
            return
        text, start = self._trimmed(text, start)
        if text:
            self._events.append(Content(text, start))

    def end_content(self, marker: str) -> None:
        """The content before the consumed marker has ended. It keeps the white space at its end."""
        if self._spaces and not self._drops_space:
            spaces = "".join(self._spaces)
            self._events.append(Content(spaces, self._num_cut + self.at - len(marker) - len(spaces)))
        self.begin_part()

    def add_reasoning(self, text: str) -> None:
        """Add a piece of reasoning."""
        text, _ = self._trimmed(text, 0)
        if text:
            self._events.append(Reasoning(text))

    # The contract for text that is not in the format

    def _guarded(self) -> Wait[None]:
        with suppress(TextEnd):
            yield from self.run()
        if self.at < len(self.text):
            self.add_content(self.text[self.at :])
        if self._spaces and not self._drops_space:
            spaces = "".join(self._spaces)
            self._events.append(Content(spaces, self._num_cut + len(self.text) - len(spaces)))

    def _try_call(self, marker: str) -> Wait[bool]:
        """Read a call. Returns whether there was one."""
        num_calls = self._num_calls
        self.commit()
        try:
            yield from self.call(marker)
        except MalformedError:
            if self._is_in_call:
                self.end_call(self.has_all_arguments)
        except TextEnd:
            if self._is_in_call:
                self.end_call(self.has_all_arguments)
                self.at = len(self.text)  # the rest is an incomplete marker, or it would have been consumed
                raise
        else:
            assert not self._is_in_call
            if self._num_calls > num_calls:
                self._kept = None
                return True
        self.roll_back()
        if self._num_calls > num_calls:
            return True
        self.at -= len(marker)
        self.add_content(marker)
        self.at += len(marker)
        return False

    def _trimmed(self, text: str, start: int) -> tuple[str, int]:
        """The visible part of text, and its offset. White space is held back where a part may end. start: the offset of
        text.
        """
        if self._drops_space:
            stripped = text.lstrip()
            start += len(text) - len(stripped)
            text = stripped
            if not text:
                return "", start
            self._drops_space = False
        shown = text.rstrip()
        if not shown:
            self._spaces.append(text)
            return "", start
        spaces = "".join(self._spaces)
        self._spaces.clear()
        if len(shown) < len(text):
            self._spaces.append(text[len(shown) :])
        return spaces + shown, start - len(spaces)


@cache
def _stops(starts: tuple[str, ...], wrappers: tuple[str, ...]) -> Markers:
    return Markers(*starts, *wrappers)
