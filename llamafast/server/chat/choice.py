"""One choice of a chat as it comes: its parser, what ends it beside the model, and the tokens that were reasoning."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.chat.format import StreamParser
from llamafast.request import RequestOutput
from llamafast.tokenizer import StopMatcher


@dataclass(frozen=True, slots=True)
class Reading:
    """How the text of a chat's choices is read; each gets a parser of its own.

    stops end the content, never reasoning or calls, and count from min_tokens on; include_stop leaves them in.
    calls: whether tools may be called; is_parallel False ends the answer behind the first call, is_legacy shows it as
    a function_call.
    """

    parser: Callable[[], StreamParser]
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    calls: bool = False
    is_parallel: bool = True
    is_legacy: bool = False
    shows_reasoning: bool = True


class ChoiceReader:
    """Turns the outputs of one choice into events. is_over: a stop or a single call ended it; no output is wanted.

    num_chars: of the text so far. num_reasoning_tokens: the tokens of the reasoning, its closing tag included.
    has_calls: a complete call was among the events; num_calls: those that began.
    """

    __slots__ = (
        "_end",
        "_feed",
        "_is_limited",
        "_is_reasoning",
        "_next",
        "_num_held",
        "_num_tokens",
        "_parser",
        "_reading",
        "_stops",
        "has_calls",
        "is_over",
        "num_calls",
        "num_chars",
        "num_reasoning_tokens",
    )

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._parser = reading.parser()
        self._feed = self._parser.feed
        self._stops = StopMatcher(reading.stops) if reading.stops else None
        self._is_limited = bool(reading.stops) or reading.calls
        self._next = 0  # where the content begins that has not come out
        self._end = -1  # of the content that the matcher has seen
        self._num_tokens = 0
        self._num_held = 0  # tokens since the last event
        self._is_reasoning = self._parser.is_reasoning
        self.num_reasoning_tokens = 0
        self.num_chars = 0
        self.num_calls = 0
        self.has_calls = False
        self.is_over = False

    def read(self, output: RequestOutput) -> list[Event]:
        """What an output adds."""
        text, num_tokens = output.text, len(output.token_ids)
        events = self._feed(text) if text else []
        self.num_chars += len(text)
        self._num_tokens += num_tokens
        is_last = output.finish_reason is not None
        was_reasoning, self._is_reasoning = self._is_reasoning, self._parser.is_reasoning
        is_reasoning = was_reasoning or self._is_reasoning
        if is_last:
            events = [*events, *self._parser.finish()]
        elif len(events) == 1 and type(events[0]) is Content and not self._is_limited and not is_reasoning:
            self._num_held = 0  # nearly all tokens come this way
            return events
        self._count(events, num_tokens, is_reasoning)
        return self._limited(events, is_last) if self._is_limited else events

    def finish_reason(self, reason: str) -> str:
        """OpenAI's word for the end of this choice."""
        if reason != "stop" or not self.has_calls:
            return reason
        return "function_call" if self._reading.is_legacy else "tool_calls"

    def _count(self, events: list[Event], num_tokens: int, is_reasoning: bool) -> None:
        num_held, self._num_held = self._num_held + num_tokens, 0  # held: the tokens of an opening tag
        if is_reasoning:
            self.num_reasoning_tokens += num_held
        elif events:
            # Some formats are read at the end alone: nothing tells their tokens apart but the text.
            thoughts = sum(len(event.text) for event in events if isinstance(event, Reasoning))
            others = sum(len(event.text) for event in events if isinstance(event, Content))
            others += sum(len(event.fragment) for event in events if isinstance(event, CallArguments))
            self.num_reasoning_tokens += round(num_held * thoughts / max(1, thoughts + others))
        else:
            self._num_held = num_held

    def _limited(self, events: list[Event], is_last: bool) -> list[Event]:
        """The events up to where a stop or a single call ends the choice."""
        out: list[Event] = []
        for event in events:
            kind = type(event)
            if kind is Content and self._stops is not None and self._num_tokens >= self._reading.min_tokens:
                assert isinstance(event, Content)
                self._match(event, out)
            else:
                self._flush(out)
                self._pass(event, out)
            if self.is_over:
                return out
        if is_last:
            self._flush(out)
        return out

    def _pass(self, event: Event, out: list[Event]) -> None:
        if isinstance(event, CallStart):
            if event.index and not self._reading.is_parallel:
                self.is_over = True
                return
            self.num_calls += 1
            event.call_id = event.call_id or f"call_{uuid.uuid4().hex[:24]}"
        elif isinstance(event, CallEnd) and event.is_complete:
            self.has_calls = True
            self.is_over = not self._reading.is_parallel
        out.append(event)

    def _match(self, event: Content, out: list[Event]) -> None:
        assert self._stops is not None
        if event.start != self._end:  # something that is no content lies between
            self._flush(out)
            self._next = event.start
        self._end = event.start + len(event.text)
        text, stop = self._stops.add(event.text)
        if stop is not None:
            self.is_over = True
            text += stop if self._reading.include_stop else ""
        if text:
            out.append(Content(text, self._next))
            self._next += len(text)

    def _flush(self, out: list[Event]) -> None:
        text = "" if self._stops is None else self._stops.flush()
        if text:
            out.append(Content(text, self._next))
            self._next += len(text)
