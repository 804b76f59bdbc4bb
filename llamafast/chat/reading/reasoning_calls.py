"""Draft: what begins like calls within reasoning, until it is known whether the answer ends with it."""

from __future__ import annotations

from collections.abc import Sequence

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Event
from llamafast.chat.format import StreamParser
from llamafast.chat.tools import Tool


class ReasoningCalls:
    """Text within reasoning that may be calls: it is if it holds nothing else, and the whole text ends behind it.

    parser: a fresh one of the format. tools: what may be called.
    """

    def __init__(self, parser: StreamParser, tools: Sequence[Tool]) -> None:
        self._parser = parser
        self._names = {tool.name for tool in tools}
        self._pieces: list[str] = []
        self._events: list[Event] = []

    @property
    def text(self) -> str:
        """What was added."""
        return "".join(self._pieces)

    def add(self, text: str) -> bool:
        """Whether it may be calls still, with this text."""
        self._pieces.append(text)
        return self._take(self._parser.feed(text))

    def calls(self, num_before: int) -> list[Event]:
        """Its calls, when the whole text is over; none if it is something else. num_before: calls before it."""
        if not self._take(self._parser.finish()):
            return []
        for event in self._events:
            if isinstance(event, (CallStart, CallArguments, CallEnd)):
                event.index += num_before
        return self._events

    def _take(self, events: list[Event]) -> bool:
        self._events += events
        return all(map(self._is_of_a_call, events))

    def _is_of_a_call(self, event: Event) -> bool:
        if isinstance(event, CallStart):
            return event.name in self._names
        return isinstance(event, CallArguments) or (isinstance(event, CallEnd) and event.is_complete)
