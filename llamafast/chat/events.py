"""What a model's text turns into while it comes: reasoning, content, tool calls; and the message they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True)
class Reasoning:
    """More of the reasoning."""

    text: str


@dataclass(slots=True)
class Content:
    """More of the answer: a verbatim piece of the model's text. start: where it stands in that text, in characters."""

    text: str
    start: int


@dataclass(slots=True)
class CallStart:
    """A tool call begins: its name is certain. index counts a message's calls. call_id: the model's own, if any."""

    index: int
    name: str
    call_id: str | None = None


@dataclass(slots=True)
class CallArguments:
    """More of a call's arguments: a piece of JSON text."""

    index: int
    fragment: str


@dataclass(slots=True)
class CallEnd:
    """A call is over. is_complete: its arguments are one JSON object; if not, the text broke off or went wrong."""

    index: int
    is_complete: bool


Event: TypeAlias = Reasoning | Content | CallStart | CallArguments | CallEnd


@dataclass(slots=True)
class ParsedCall:
    """One tool call. arguments: JSON text."""

    name: str
    arguments: str = ""
    call_id: str | None = None
    is_complete: bool = False


@dataclass(slots=True)
class ParsedMessage:
    """A whole answer: what its events add up to."""

    reasoning: str = ""
    content: str = ""
    calls: list[ParsedCall] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> ParsedMessage:
        """The sum of events in their order, in time proportional to their text."""
        reasoning, content = list[str](), list[str]()
        calls, arguments = list[ParsedCall](), list[list[str]]()
        for event in events:
            if isinstance(event, Content):
                content.append(event.text)
            elif isinstance(event, Reasoning):
                reasoning.append(event.text)
            elif isinstance(event, CallStart):
                calls.append(ParsedCall(event.name, call_id=event.call_id))
                arguments.append([])
            elif isinstance(event, CallArguments):
                arguments[event.index].append(event.fragment)
            else:
                calls[event.index].is_complete = event.is_complete
        for call, fragments in zip(calls, arguments, strict=True):
            call.arguments = "".join(fragments)
        return cls("".join(reasoning), "".join(content), calls)
