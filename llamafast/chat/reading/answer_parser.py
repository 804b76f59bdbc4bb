"""Machine: runs a format, written as generators that wait for text, over a text that comes in pieces."""

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
    """The machine of one sequence: reasoning, then content and calls in any order.

    A format says what begins a call (`starts`), and reads one in `call`, with the methods of TextReader and those
    below: they take text, and wait for more where they must. It calls `start_call`, `arguments` and `end_call` as it
    goes; where the text leaves the format it raises MalformedError, and what the contract then asks for happens here.
    """

    # Reasoning may stand at the beginning and behind calls.
    tags: tuple[ReasoningTags, ...] = (THINK,)
    starts: Markers = NO_MARKERS
    # Texts around content that mean nothing.
    wrappers: tuple[str, ...] = ()
    # What may stand behind a call's arguments.
    closers: tuple[str, ...] = ()

    def __init__(
        self, prompt: str, tools: Sequence[Tool] | None, tags: tuple[ReasoningTags, ...] | None = None
    ) -> None:
        super().__init__()
        if tags is not None:
            self.tags = tags
        self.tools = tools
        self._events: list[Event] = []
        self._num_calls = 0
        self.has_all_arguments = False  # the arguments of the call being read are complete: a format says so
        self._is_in_call = False
        self._tool: Tool | None = None  # that is called, if there is one
        self._held = ""  # what closes its arguments, which is told when it is over
        self._spaces: list[str] = []  # white space that may stand between two parts
        self._drops_space = False  # the next content follows another part
        self._stops = _stops(self.starts.texts if tools is not None else (), self.wrappers)
        prompt = prompt.rstrip()
        self._opened = next((tags for tags in self.tags if prompt.endswith(tags.open)), None)
        self._drops_space = any(prompt.endswith(tags.close) for tags in self.tags)
        self._steps = self._guarded()
        next(self._steps)

    def feed(self, text: str) -> list[Event]:
        """What is certain now. text: the next piece, never seen before."""
        self.add(text)
        next(self._steps)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What is left when the model has stopped. Called once, last."""
        try:
            # A call that turns out to be none may hold the beginning of another one.
            while True:
                self._steps.throw(TextEnd)
        except StopIteration:
            return self._events

    def run(self) -> Wait[None]:
        """The whole text."""
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
        """Read what follows marker, one of `starts`: one call or more, up to the end of the last."""
        raise MalformedError
        yield

    # What a format is made of

    def literal(self, reader: LiteralReader) -> Wait[None]:
        """Pass on one object in a notation of its own as the call's arguments, as it comes."""
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
        """The arguments of the call that was started: one JSON object, behind which the call is over."""
        if not (yield from self.lacks_arguments()):
            yield from self.json_object()
            yield from self.skip_stray_brackets()
        self.end_call(self.has_all_arguments)

    def json_object(self) -> Wait[None]:
        """Pass on a JSON object as the call's arguments, of which the last brace may be missing before a closer."""
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
        """Whether the call ends where its arguments' JSON would begin: they are {} if its tool can do without any."""
        try:
            yield from self.space()
            if not (yield from self.peek_any(self.closers)):
                return False
        except TextEnd:
            # The text may have been cut: only a tool that takes nothing is called.
            if self._tool is not None and not self._tool.members.names:
                self.pass_empty_arguments()
            raise
        if not self.needs_arguments:
            self.pass_empty_arguments()
        return True

    @property
    def needs_arguments(self) -> bool:
        """Whether the tool that is called cannot do without."""
        return self._tool is not None and not self._tool.members.may_be_empty

    @property
    def declared_names(self) -> frozenset[str]:
        """The names of the arguments that the tool declares which is called."""
        return frozenset() if self._tool is None else self._tool.members.names

    def pass_empty_arguments(self) -> None:
        """The call's arguments are {}."""
        self.arguments("{}")
        self.hold_back_closer()

    def skip_stray_brackets(self, marks: str = ',":', strays: str = "}]", *, has_words: bool = False) -> Wait[None]:
        """Take brackets too many behind whole arguments. MalformedError if a mark shows that they were no end.

        has_words: so does a word.
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
        """The arguments are whole. What closes them is kept back until the call is over: until then it may be wrong."""
        last = self._events[-1]
        assert isinstance(last, CallArguments)
        last.fragment, self._held = last.fragment[:-1], last.fragment[-1]
        if not last.fragment:
            self._events.pop()
        self.has_all_arguments = True

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """The head of a call is read. A call without a name is none."""
        if not name:
            raise MalformedError
        self._kept = None
        self.begin_part()
        self._is_in_call, self.has_all_arguments = True, False
        self._tool, self._held = next((tool for tool in self.tools or () if tool.name == name), None), ""
        self._events.append(CallStart(self._num_calls, name, call_id))

    def arguments(self, fragment: str) -> None:
        """More of the call's arguments."""
        last = self._events[-1] if self._events else None
        if isinstance(last, CallArguments):
            last.fragment += fragment
        elif fragment:
            self._events.append(CallArguments(self._num_calls, fragment))

    def end_call(self, is_complete: bool = True) -> None:
        """The call is over; another may follow before the end of what the marker began."""
        if is_complete and self._held:
            self.arguments(self._held)
        self._held = ""
        self._events.append(CallEnd(self._num_calls, is_complete))
        self._num_calls += 1
        self._is_in_call = False
        self.commit()

    def reasoning(self, close: str) -> Wait[None]:
        """Take reasoning up to its closing tag. Calls in it are calls where the whole text ends behind them."""
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
            while (marker := (yield from self.reasoning_text(ends, add))) != close:
                draft = draft or ReasoningCalls(type(self)("", self.tools), self.tools or ())
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
        """Take the tag that opens the reasoning which close ends, if the model writes it once more."""
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
        """Take the text of reasoning and the marker that ends it; gives the marker. sink: what takes the text."""
        self.is_reasoning = True
        try:
            return (yield from self.copy(ends, sink or self.add_reasoning))
        finally:
            self.is_reasoning = False

    def skip_between_parts(self) -> Wait[None]:
        """Take white space and reasoning where both may stand."""
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
        """What comes next is apart from what was before: white space between them belongs to neither."""
        self._spaces.clear()
        self._drops_space = True

    def add_content(self, text: str) -> None:
        """More content; it stands at text[at]."""
        start = self._num_cut + self.at
        if not self._drops_space and not self._spaces and not text[-1].isspace():
            self._events.append(Content(text, start))
            return
        text, start = self._trimmed(text, start)
        if text:
            self._events.append(Content(text, start))

    def end_content(self, marker: str) -> None:
        """The content before marker, which was taken just now, is over: the white space at its end is its own."""
        if self._spaces and not self._drops_space:
            spaces = "".join(self._spaces)
            self._events.append(Content(spaces, self._num_cut + self.at - len(marker) - len(spaces)))
        self.begin_part()

    def add_reasoning(self, text: str) -> None:
        """More reasoning."""
        text, _ = self._trimmed(text, 0)
        if text:
            self._events.append(Reasoning(text))

    # The contract where a text leaves the format

    def _guarded(self) -> Wait[None]:
        with suppress(TextEnd):
            yield from self.run()
        if self.at < len(self.text):
            self.add_content(self.text[self.at :])
        if self._spaces and not self._drops_space:
            spaces = "".join(self._spaces)
            self._events.append(Content(spaces, self._num_cut + len(self.text) - len(spaces)))

    def _try_call(self, marker: str) -> Wait[bool]:
        """Whether there was a call."""
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
                self.at = len(self.text)  # a begun marker, or it would have been taken
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
        """What is shown of text, which stands at start: without white space where a part may end."""
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
