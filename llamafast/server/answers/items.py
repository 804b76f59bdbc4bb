"""A chat answer as items, one after another: messages, reasoning and tool calls.

APIs whose answers are lists of items (OpenAI's Responses, Anthropic's Messages) render these. OpenAI's chat API has one
message per choice and renders the parser's events directly.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.request import FinishReason, RequestOutput
from llamafast.server.answers.answer_reader import AnswerReader
from llamafast.server.answers.progress import AnswerProgress
from llamafast.server.chat.choice import ReadOptions


class ItemKind(Enum):
    """The kind of an item's content."""

    MESSAGE = "message"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"


class ItemStatus(Enum):
    """The state of an item. INCOMPLETE: the answer ended inside it."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"


@dataclass(slots=True)
class Item:
    """A part of an answer.

    index: the item's place in the answer.
    id: 32 hexadecimal digits; a dialect puts its own prefix before them.
    kind: the kind of the text.
    status: IN_PROGRESS from ItemStarted to ItemDone.
    name: the tool of a call; "" for other items.
    call_id: the id of a call, which the client's tool result repeats; "" for other items.
    text: the whole text, or the whole arguments of a call as JSON text; "" before ItemDone.
    """

    index: int
    id: str
    kind: ItemKind
    status: ItemStatus = ItemStatus.IN_PROGRESS
    name: str = ""
    call_id: str = ""
    text: str = ""


@dataclass(slots=True)
class ItemStarted:
    """An item begins. Its index, id, kind, name and call_id are final."""

    item: Item


@dataclass(slots=True)
class ItemDelta:
    """More of an item's text.

    start: where the text of a message begins in the choice's text, in characters; -1 for other items.
    """

    item: Item
    text: str
    start: int = -1


@dataclass(slots=True)
class ItemDone:
    """An item is over. Its status and text are final."""

    item: Item


ItemEvent: TypeAlias = ItemStarted | ItemDelta | ItemDone


class ItemReader:
    """Turns one choice's parser events into items. At most one item is open at a time, so items end in order.

    items: all items so far.
    """

    __slots__ = ("_open", "_pieces", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._open: Item | None = None
        self._pieces: list[str] = []  # the text of the open item

    def read(self, events: Iterable[Event]) -> list[ItemEvent]:
        """The item events that these parser events cause."""
        out: list[ItemEvent] = []
        for event in events:
            if type(event) is Content:
                self._delta(ItemKind.MESSAGE, event.text, event.start, out)
            elif isinstance(event, Reasoning):
                self._delta(ItemKind.REASONING, event.text, -1, out)
            elif isinstance(event, CallStart):
                self._start(ItemKind.TOOL_CALL, out, event.name, event.call_id or f"call_{uuid.uuid4().hex[:24]}")
            elif isinstance(event, CallArguments):
                self._delta(ItemKind.TOOL_CALL, event.fragment, -1, out)
            else:
                assert isinstance(event, CallEnd)
                self._close(ItemStatus.COMPLETED if event.is_complete else ItemStatus.INCOMPLETE, out)
        return out

    def finish(self, reason: FinishReason) -> list[ItemEvent]:
        """End the choice. An open item is complete only if the reason is STOP.

        An answer without items gets an empty message, except after ABORT and ERROR.
        """
        out: list[ItemEvent] = []
        if not self.items and reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._start(ItemKind.MESSAGE, out)
        self._close(ItemStatus.COMPLETED if reason is FinishReason.STOP else ItemStatus.INCOMPLETE, out)
        return out

    def _delta(self, kind: ItemKind, text: str, start: int, out: list[ItemEvent]) -> None:
        item = self._open
        if item is None or item.kind is not kind:
            item = self._start(kind, out)
        self._pieces.append(text)
        out.append(ItemDelta(item, text, start))

    def _start(self, kind: ItemKind, out: list[ItemEvent], name: str = "", call_id: str = "") -> Item:
        self._close(ItemStatus.COMPLETED, out)
        self._open = item = Item(len(self.items), uuid.uuid4().hex, kind, name=name, call_id=call_id)
        self.items.append(item)
        out.append(ItemStarted(item))
        return item

    def _close(self, status: ItemStatus, out: list[ItemEvent]) -> None:
        """Close the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return
        item.status, item.text = status, "".join(self._pieces)
        self._pieces.clear()
        out.append(ItemDone(item))


class AnswerItems:
    """Turns the outputs of a chat with one choice into items.

    reader: reads the outputs; has the number of reasoning tokens and the logprobs of a message's deltas.
    token_ids: the tokens of the answer so far.
    """

    __slots__ = ("_items", "_progress", "_shows_reasoning", "reader", "token_ids")

    def __init__(self, read_options: ReadOptions, progress: AnswerProgress) -> None:
        self.reader = AnswerReader(read_options, progress)
        self._shows_reasoning = read_options.shows_reasoning
        self._progress = progress
        self._items = ItemReader()
        self.token_ids: list[int] = []

    @property
    def items(self) -> Sequence[Item]:
        """All items so far."""
        return self._items.items

    def read(self, outputs: Iterable[RequestOutput]) -> list[ItemEvent]:
        """The item events of one delivery. After an engine error, progress.error is set and the open item ends."""
        out: list[ItemEvent] = []
        for output in outputs:
            choice = self._progress.note(output)
            if choice is None:
                out += self._items.finish(FinishReason.ERROR)
                break
            if choice.is_over:
                continue
            self.token_ids += output.token_ids
            events = self.reader.read(output)
            if not self._shows_reasoning:
                events = [event for event in events if not isinstance(event, Reasoning)]
            out += self._items.read(events)
            if choice.finish_reason is not None:
                out += self._items.finish(choice.finish_reason)
        return out

    def abort(self) -> list[ItemEvent]:
        """End an answer that nobody wants any more: an open item ends incomplete."""
        return self._items.finish(FinishReason.ABORT)
