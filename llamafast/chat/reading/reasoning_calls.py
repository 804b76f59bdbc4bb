"""ReasoningCalls: possible calls inside open reasoning. They count only if the answer ends directly after them."""

from __future__ import annotations

from collections.abc import Sequence

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Event
from llamafast.chat.format import StreamParser
from llamafast.chat.tools import Tool


class ReasoningCalls:
    """Text inside reasoning that may be calls. It is if it contains nothing else and the whole text ends after it.

    parser: a new parser of the format.
    tools: the tools that may be called.
    """

    def __init__(self, parser: StreamParser, tools: Sequence[Tool]) -> None:
        self._parser = parser
        self._names = {tool.name for tool in tools}
        self._pieces: list[str] = []
        self._events: list[Event] = []

    @property
    def text(self) -> str:
        """The text that was added."""
        return "".join(self._pieces)

    def add(self, text: str) -> bool:
        """Add text. Returns whether all of it may still be calls."""
        self._pieces.append(text)
        return self._take(self._parser.feed(text))

    def calls(self, num_before: int) -> list[Event]:
        """The calls, at the end of the whole text; empty if the text is something else. num_before: the number of
        earlier calls.
        """
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
