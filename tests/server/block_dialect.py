"""A dialect for tests, unlike OpenAI's: named events, blocks, its own errors and statuses, no end mark.

It resembles Anthropic's Messages API. It has only the parts that show that the server uses the dialect.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from llamafast.request import RequestOutput
from llamafast.server.answers.dialect import Dialect
from llamafast.server.answers.failure import Failure
from llamafast.server.answers.formatter import Formatter
from llamafast.server.answers.framing import EVENT_STREAM, Framing
from llamafast.server.answers.items import AnswerItems, Item, ItemDelta, ItemEvent, ItemKind, ItemStarted
from llamafast.server.answers.progress import AnswerProgress
from llamafast.server.chat.choice import ReadOptions

NAMES = {ItemKind.MESSAGE: "text", ItemKind.REASONING: "thinking", ItemKind.TOOL_CALL: "tool_use"}
# Lines as a WebSocket sends them, each as one text frame.
LINES = Framing("application/json", after=b"\n")


class BlockDialect(Dialect):
    framing = Framing(EVENT_STREAM, event=b"event: %b\n", before=b"data: ", after=b"\n\n")

    def error_document(self, failure: Failure) -> bytes:
        kinds = {400: "invalid_request_error", 404: "not_found_error", 529: "overloaded_error"}
        kind = kinds.get(self.status(failure), "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": failure.message}})

    def status(self, failure: Failure) -> int:
        return 529 if failure.status == 503 else failure.status


BLOCKS = BlockDialect()


class BlockFormatter(Formatter):
    dialect = BLOCKS

    def __init__(self, read_options: ReadOptions, framing: Framing | None = None) -> None:
        super().__init__(AnswerProgress(1), framing)
        self._items = AnswerItems(read_options, self.progress)

    def start(self) -> bytes:
        return self._frame({"type": "message_start"})

    def keepalive(self) -> bytes:
        return self._frame({"type": "ping"})

    def frames(self, outputs: Sequence[RequestOutput]) -> bytes:
        return b"".join(self._frame(self._document(event)) for event in self._items.read(outputs))

    def end(self) -> bytes:
        return self._frame({"type": "message_delta", **self._outcome()}) + self._frame({"type": "message_stop"})

    def add(self, outputs: Sequence[RequestOutput]) -> None:
        self._items.read(outputs)

    def body(self) -> bytes:
        content = [{**self._block(item), "text": item.text} for item in self._items.items]
        return orjson.dumps({"type": "message", "content": content, **self._outcome()})

    def _outcome(self) -> dict[str, object]:
        usage = self.progress.usage.total(self._items.reader.num_reasoning_tokens)
        cached = usage.cached_tokens
        numbers = {"input_tokens": usage.prompt_tokens - cached, "cache_read_input_tokens": cached}
        return {
            "stop_reason": self.progress.choices[0].finish_reason,
            "usage": {**numbers, "output_tokens": usage.completion_tokens},
        }

    def _document(self, event: ItemEvent) -> dict[str, object]:
        index = event.item.index
        if isinstance(event, ItemStarted):
            return {"type": "content_block_start", "index": index, "content_block": self._block(event.item)}
        if isinstance(event, ItemDelta):
            return {"type": "content_block_delta", "index": index, "delta": event.text}
        return {"type": "content_block_stop", "index": index}

    def _block(self, item: Item) -> dict[str, object]:
        return {"type": NAMES[item.kind], "name": item.name, "id": item.call_id}

    def _frame(self, document: dict[str, object]) -> bytes:
        return self.framing.frame(str(document["type"]).encode(), orjson.dumps(document))
