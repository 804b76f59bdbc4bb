"""Events: the parts of an answer (reasoning, content, tool calls) that a parser yields while the text arrives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True)
class Reasoning:
    """A piece of reasoning."""

    text: str


@dataclass(slots=True)
class Content:
    """A piece of content.

    text: a verbatim piece of the model's text.
    start: the offset of text in the model's text, in characters.
    """

    text: str
    start: int


@dataclass(slots=True)
class CallStart:
    """A tool call begins, and its name is known.

    index: the position of the call among the calls of the message, from 0.
    name: the name of the function.
    call_id: the id that the model wrote; None if it wrote none.
    """

    index: int
    name: str
    call_id: str | None = None


@dataclass(slots=True)
class CallArguments:
    """A piece of the arguments of a call.

    index: the position of the call.
    fragment: a piece of JSON text.
    """

    index: int
    fragment: str


@dataclass(slots=True)
class CallEnd:
    """A call ends.

    index: the position of the call.
    is_complete: the arguments are one JSON object. False: the text ended inside the call, or the call is malformed.
    """

    index: int
    is_complete: bool


Event: TypeAlias = Reasoning | Content | CallStart | CallArguments | CallEnd


@dataclass(slots=True)
class ParsedCall:
    """One tool call of a ParsedMessage.

    name: the name of the function.
    arguments: JSON text.
    call_id: the id that the model wrote; None if it wrote none.
    is_complete: the arguments are one JSON object.
    """

    name: str
    arguments: str = ""
    call_id: str | None = None
    is_complete: bool = False


@dataclass(slots=True)
class ParsedMessage:
    """A whole answer: the sum of its events."""

    reasoning: str = ""
    content: str = ""
    calls: list[ParsedCall] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> ParsedMessage:
        """The sum of events, in their order. It takes time proportional to the length of the text."""
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
