"""ResponseSchemaParser: applies a response schema while the text arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llamafast.chat.events import CallArguments, CallStart, Content, Event
from llamafast.chat.reading.answer_parser import MalformedError, TextEnd, Wait
from llamafast.chat.reading.argument_writer import ArgumentWriter
from llamafast.chat.reading.literals import GEMMA, LiteralReader
from llamafast.chat.reading.markers import Markers
from llamafast.chat.reading.xml_calls import Elements, XmlCallParser
from llamafast.chat.response_schema.message import item_call
from llamafast.chat.response_schema.stream_plan import ArgumentsPlan, CallsPlan, Segment, StreamPlan
from llamafast.chat.tools import Tool

# The text before the arguments of a call is short.
_MAX_HEAD = 1000


class ResponseSchemaParser(XmlCallParser):
    """Follows a StreamPlan.

    tail: the end of the prompt, where the plan begins. It yields no events, except of a call that has begun in it.
    """

    def __init__(self, plan: StreamPlan, tail: str, tools: Sequence[Tool] | None) -> None:
        self._plan = plan
        self._call_plan = plan.calls if tools is not None else None
        self._between: list[Content] = []  # text that belongs to no part
        self._has_content = False
        self._is_over = False  # the end of inline content was reached
        super().__init__("", tools, ())
        self._num_tail = len(tail)
        begun = super().feed(tail) if tail else []
        self._begun: list[Event] = [event for event in begun if isinstance(event, (CallStart, CallArguments))]
        self._has_content = False

    def feed(self, text: str) -> list[Event]:
        """The events that are certain with this text. text: the next piece of the model's text."""
        begun, self._begun = self._begun, []
        return begun + self._without_prompt(super().feed(text))

    def finish(self) -> list[Event]:
        """The remaining events, after the model has stopped. It is called once, as the last method."""
        begun, self._begun = self._begun, []
        events = begun + self._without_prompt(super().finish())
        content = self._plan.content
        last = events[-1] if events else None
        # "$" also matches before a line break at the end of the text.
        if isinstance(last, Content) and last.text.endswith("\n") and content is not None and content.has_end:
            last.text = last.text[:-1]
        return events

    def add_content(self, text: str) -> None:
        """Add a piece of content, which begins at text[at]."""
        self._has_content = self._has_content or not text.isspace()
        super().add_content(text)

    def run(self) -> Wait[None]:
        """Read the whole text."""
        for opening in self._plan.reasoning_openings():
            if (yield from self.accept(opening)):
                yield from self._reasoning()
                break
        else:
            if self._plan.is_inline:
                for lead in self._plan.leads:
                    yield from self.accept(lead)
        try:
            yield from self._parts()
        except TextEnd:
            if self.at < len(self.text):  # text that might have become a marker
                self._sink()(self.text[self.at :])
                self.at = len(self.text)
            if not self._has_content and not self._num_calls:
                self._events += [piece for piece in _joined(self._between) if self._has_own_text(piece.text)]
            raise

    def call(self, marker: str) -> Wait[None]:
        """Read one item of the plan's calls."""
        plan = self._call_plan
        if plan is None:
            raise MalformedError
        begun = marker[plan.num_outside :]
        if plan.arguments is None:
            yield from self._whole_item(begun, plan)
            return
        name = yield from self._head(begun, plan.arguments, plan.closer)
        self.start_call(name)
        if plan.arguments.elements is not None:
            yield from self._pairs(name, plan.arguments, plan.arguments.elements, plan.closer)
            return
        if plan.arguments.parser == "json":
            if (yield from self.peek()) != "{":
                raise MalformedError
            yield from self.json(self.arguments, is_lenient=False)
        else:
            yield from self.literal_arguments(LiteralReader(GEMMA))
        self.has_all_arguments = True
        self.end_call()
        yield from self.accept_end((plan.arguments.suffix + plan.closer).strip())

    def _parts(self) -> Wait[None]:
        """Read content and calls."""
        calls, content = self._call_plan, self._plan.content
        unasked = self._plan.calls.opener if self._plan.calls is not None and calls is None else None
        ends = Markers(*(text for text in self._plan.ends if text != unasked))
        while True:
            marker = yield from self.copy(ends, lambda text: self._sink()(text))
            if calls is not None and marker == calls.opener:
                yield from self._try_call(marker)
            elif content is None:
                continue
            elif marker == content.opener:
                yield from self._content(content)
            elif marker in content.endings:
                try:
                    yield from self.peek()
                except TextEnd:  # nothing may follow it
                    self.end_content(marker)
                    raise
                self.at -= len(marker)
                self.add_content(marker)
                self.at += len(marker)
            else:
                self.end_content(marker)
                self._is_over = True

    def _sink(self) -> Callable[[str], None]:
        """The receiver of the text between the parts."""
        return self.add_content if self._plan.is_inline and not self._is_over else self._drop

    def _drop(self, text: str) -> None:
        self._between.append(Content(text, self._num_cut + self.at))

    def _reasoning(self) -> Wait[None]:
        segment = self._plan.reasoning
        assert segment is not None
        self.begin_part()
        try:
            marker = yield from self.reasoning_text(Markers(*segment.closers))
        finally:
            self.begin_part()
        if not segment.is_skipped and not self._plan.is_inline:
            self.at -= len(marker)  # it may begin the next part

    def _content(self, segment: Segment) -> Wait[None]:
        marker = yield from self.copy(Markers(*segment.closers, *segment.endings), self.add_content)
        self.end_content(marker)
        if not segment.is_skipped:
            self.at -= len(marker)

    def _head(self, begun: str, plan: ArgumentsPlan, closer: str) -> Wait[str]:
        """Read the text before the arguments; returns the name. begun: the part of that text that has been consumed."""
        while True:
            head = begun + self.text[self.at :]
            match = plan.head.match(head)
            if match is not None and match.end() >= len(begun):
                self.at += match.end() - len(begun)
                return match[1]
            if match is not None or len(head) > _MAX_HEAD or closer in head:
                raise MalformedError
            yield

    def _pairs(self, name: str, plan: ArgumentsPlan, elements: Elements, closer: str) -> Wait[None]:
        self.elements = elements
        writer = ArgumentWriter(name, self.tools)
        self._given = frozenset()
        ends = Markers(elements.value_open, closer)
        while True:
            between: list[str] = []
            try:
                marker = yield from self.copy(ends, between.append)
            except TextEnd:
                if plan.suffix.strip() and plan.suffix.strip() in "".join(between):
                    self.arguments(writer.close())
                    self.has_all_arguments = True
                raise
            if marker == closer:
                break
            yield from self.argument(writer)
        self.arguments(writer.close())
        self.has_all_arguments = True
        self.end_call()

    def _whole_item(self, begun: str, plan: CallsPlan) -> Wait[None]:
        """Read an item that can only be read as a whole."""
        pieces = [begun]
        end: TextEnd | None = None
        try:
            yield from self.copy(Markers(plan.closer), pieces.append)
        except TextEnd as error:
            end = error
        call = item_call(plan.items, "".join(pieces) + plan.closer[: plan.closer_inside], self.tools or ())
        if call is None:
            raise end or MalformedError
        self.start_call(call.name)
        self.arguments(call.arguments)
        self.has_all_arguments = True
        if end is not None:
            raise end
        self.end_call()

    def _without_prompt(self, events: list[Event]) -> list[Event]:
        """The events without the text of the prompt's end."""
        kept: list[Event] = []
        for event in events:
            if isinstance(event, Content):
                event.start -= self._num_tail
                if event.start < 0:
                    event.text, event.start = event.text[-event.start :], 0
                if not event.text:
                    continue
            kept.append(event)
        return kept

    def _has_own_text(self, text: str) -> bool:
        """Whether a text contains more than the plan's own texts."""
        segments = [segment for segment in (self._plan.reasoning, self._plan.content) if segment is not None]
        for known in (text for segment in segments for text in (*segment.closers, *segment.endings, *segment.lead)):
            text = text.replace(known, "")
        return bool(text.strip())


def _joined(pieces: list[Content]) -> list[Content]:
    """The pieces, joined where one directly follows the other."""
    runs: list[list[Content]] = []
    end = -1
    for piece in pieces:
        if piece.start != end:
            runs.append([])
        runs[-1].append(piece)
        end = piece.start + len(piece.text)
    return [Content("".join(piece.text for piece in run), run[0].start) for run in runs]
