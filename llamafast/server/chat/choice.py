"""Reads one choice of a chat: parses its outputs into events, ends it at a stop or after a call, counts tokens."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.chat.format import StreamParser
from llamafast.request import RequestOutput
from llamafast.tokenizer import StopMatcher


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the text of each choice is read.

    parser: makes a parser for one choice.
    stops: texts that end the content of a choice. They do not end reasoning or calls.
    include_stop: the content includes the stop text that ended it.
    min_tokens: stops have no effect before this many tokens.
    calls: the model may call tools.
    is_parallel: an answer may contain several calls. False: it ends after the first call.
    is_legacy: the answer shows its call in OpenAI's older field `function_call`.
    shows_reasoning: the answer contains the reasoning.
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
    """Turns the outputs of one choice into events.

    is_over: a stop or a single call has ended the choice. Its further outputs are ignored.
    num_chars: characters of text so far.
    num_reasoning_tokens: tokens of the reasoning, its closing tag included.
    num_calls: calls that have begun.
    has_calls: the events contained a complete call.
    """

    __slots__ = (
        "_end",
        "_feed",
        "_is_limited",
        "_is_reasoning",
        "_next",
        "_num_held",
        "_num_tokens",
        "_options",
        "_parser",
        "_stops",
        "has_calls",
        "is_over",
        "num_calls",
        "num_chars",
        "num_reasoning_tokens",
    )

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._parser = options.parser()
        self._feed = self._parser.feed
        self._stops = StopMatcher(options.stops) if options.stops else None
        self._is_limited = bool(options.stops) or options.calls
        self._next = 0  # the position of the next content in the choice's text
        self._end = -1  # the end of the content that the matcher has seen
        self._num_tokens = 0
        self._num_held = 0  # tokens since the last event
        self._is_reasoning = self._parser.is_reasoning
        self.num_reasoning_tokens = 0
        self.num_chars = 0
        self.num_calls = 0
        self.has_calls = False
        self.is_over = False

    def read(self, output: RequestOutput) -> list[Event]:
        """The events that an output adds."""
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
            self._num_held = 0  # nearly all tokens take this path
            return events
        self._count(events, num_tokens, is_reasoning)
        return self._limited(events, is_last) if self._is_limited else events

    def finish_reason(self, reason: str) -> str:
        """The finish reason of this choice in OpenAI's chat API. reason: the engine's."""
        if reason != "stop" or not self.has_calls:
            return reason
        return "function_call" if self._options.is_legacy else "tool_calls"

    def _count(self, events: list[Event], num_tokens: int, is_reasoning: bool) -> None:
        num_held, self._num_held = self._num_held + num_tokens, 0  # the parser holds the tokens of an opening tag
        if is_reasoning:
            self.num_reasoning_tokens += num_held
        elif events:
            # Some parsers read a choice only at its end. Then the texts' lengths divide the tokens.
            thoughts = sum(len(event.text) for event in events if isinstance(event, Reasoning))
            others = sum(len(event.text) for event in events if isinstance(event, Content))
            others += sum(len(event.fragment) for event in events if isinstance(event, CallArguments))
            self.num_reasoning_tokens += round(num_held * thoughts / max(1, thoughts + others))
        else:
            self._num_held = num_held

    def _limited(self, events: list[Event], is_last: bool) -> list[Event]:
        """The events up to the stop or the single call that ends the choice."""
        out: list[Event] = []
        for event in events:
            kind = type(event)
            if kind is Content and self._stops is not None and self._num_tokens >= self._options.min_tokens:
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
            if event.index and not self._options.is_parallel:
                self.is_over = True
                return
            self.num_calls += 1
            event.call_id = event.call_id or f"call_{uuid.uuid4().hex[:24]}"
        elif isinstance(event, CallEnd) and event.is_complete:
            self.has_calls = True
            self.is_over = not self._options.is_parallel
        out.append(event)

    def _match(self, event: Content, out: list[Event]) -> None:
        assert self._stops is not None
        if event.start != self._end:  # reasoning or a call lies between
            self._flush(out)
            self._next = event.start
        self._end = event.start + len(event.text)
        text, stop = self._stops.add(event.text)
        if stop is not None:
            self.is_over = True
            text += stop if self._options.include_stop else ""
        if text:
            out.append(Content(text, self._next))
            self._next += len(text)

    def _flush(self, out: list[Event]) -> None:
        text = "" if self._stops is None else self._stops.flush()
        if text:
            out.append(Content(text, self._next))
            self._next += len(text)
