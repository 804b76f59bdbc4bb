"""From the items of an answer to the events of a response, and the response object that they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import orjson

from llamafast.responses.custom_input import CustomInput
from llamafast.responses.items import new_id
from llamafast.responses.tools import ToolOrigin
from llamafast.server.answers.formatter import JsonObject
from llamafast.server.answers.items import Item, ItemDelta, ItemDone, ItemEvent, ItemKind, ItemStarted, ItemStatus

Frame: TypeAlias = tuple[bytes, bytes]  # the type of an event, and the event as JSON
Logprobs: TypeAlias = Sequence[JsonObject]

_EMPTY_ARGUMENTS = "{}"

# By the type of an item: the type of its deltas, and the field of its text in the item and in the last event.
_DELTAS = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "function_call": "response.function_call_arguments.delta",
    "custom_tool_call": "response.custom_tool_call_input.delta",
}
_TEXTS = {"message": "text", "reasoning": "text", "function_call": "arguments", "custom_tool_call": "input"}


class _OpenItem:
    """The item that has no end yet.

    kind: its type. delta_name: the type of its deltas. document: the item as it is added. prefix: the JSON of its
    deltas up to the text. logprobs: of its deltas. custom: decodes the input of a custom tool; None for other items.
    """

    __slots__ = ("custom", "delta_name", "document", "kind", "logprobs", "pieces", "prefix")

    def __init__(self, kind: str, document: JsonObject, place: JsonObject) -> None:
        self.kind = kind
        self.delta_name = _DELTAS[kind].encode()
        self.document = document
        self.prefix = orjson.dumps({"type": _DELTAS[kind], **place})[:-1] + b',"delta":'
        self.logprobs: list[JsonObject] = []
        self.custom = CustomInput() if kind == "custom_tool_call" else None
        self.pieces: list[str] = []  # of the decoded input of a custom tool


class ResponseEvents:
    """Writes the events of one response, in OpenAI's order.

    head: the response object with all its fields; status, output, usage and the like are set here.
    output: the items that have ended.
    status: OpenAI's word for how far the response is.
    """

    def __init__(
        self,
        head: JsonObject,
        origins: Mapping[str, ToolOrigin],
        *,
        with_logprobs: bool = False,
        seal: Callable[[str], str] | None = None,
    ) -> None:
        """origins: the tools by the name that the model sees. with_logprobs: messages show the logprobs of their text.

        seal: packs reasoning into `encrypted_content`; None: that field stays null.
        """
        self.head = head
        self.output: list[JsonObject] = []
        self.status = "in_progress"
        self._origins = origins
        self._with_logprobs = with_logprobs
        self._seal = seal
        self._number = 0
        self._item: _OpenItem | None = None

    @property
    def num_events(self) -> int:
        """The number of events so far."""
        return self._number

    def start(self, *, is_queued: bool = False) -> list[Frame]:
        """The events before the first item."""
        if not is_queued:
            return [self._lifecycle("response.created"), self._lifecycle("response.in_progress")]
        self.status = "queued"
        frames = [self._lifecycle("response.created"), self._lifecycle("response.queued")]
        self.status = "in_progress"
        return [*frames, self._lifecycle("response.in_progress")]

    def read(
        self, events: Iterable[ItemEvent], logprobs_of: Callable[[ItemDelta], Logprobs] | None = None
    ) -> list[Frame]:
        """What events of items add. logprobs_of: gives the logprobs of a message's delta; None: there are none."""
        frames: list[Frame] = []
        for event in events:
            if type(event) is ItemDelta:
                logprobs = logprobs_of(event) if logprobs_of and event.item.kind is ItemKind.MESSAGE else ()
                self._delta(event.text, logprobs, frames)
            elif type(event) is ItemStarted:
                self._start(event.item, frames)
            elif type(event) is ItemDone:
                self._done(event.item, frames)
        return frames

    def finish(self, usage: JsonObject | None, completed_at: int, *, is_cut: bool) -> None:
        """End the response. is_cut: it ended at a limit of tokens. last() gives the event."""
        self.head["usage"] = usage
        if is_cut:
            self.status = "incomplete"
            self.head["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.status = "completed"
            self.head["completed_at"] = completed_at

    def fail(self, code: str, message: str) -> None:
        """End the response with an error, after its items. last() gives the event."""
        self.status = "failed"
        self.head["error"] = {"code": code, "message": message}

    def cancel(self) -> None:
        """End a response that nobody wants any more, after its items. There is no event for this."""
        self.status = "cancelled"

    def last(self) -> Frame:
        """The event after finish() or fail()."""
        return self._lifecycle(f"response.{self.status}")

    def error(self, code: str | None, message: str, param: str | None) -> Frame:
        """The event that reports an error in a stream of server-sent events, before the response fails."""
        return self._frame("error", {"code": code, "message": message, "param": param})

    def response(self) -> JsonObject:
        """The response object as it is now."""
        return {**self.head, "status": self.status, "output": self.output}

    def _start(self, item: Item, frames: list[Frame]) -> None:
        document = self._added(item)
        kind = str(document["type"])
        place: JsonObject = {"item_id": document["id"], "output_index": len(self.output)}
        if kind in ("message", "reasoning"):
            place["content_index"] = 0
        self._item = _OpenItem(kind, document, place)
        frames.append(self._frame("response.output_item.added", {"output_index": len(self.output), "item": document}))
        if kind == "message":
            self._part("added", {"type": "output_text", "text": "", "annotations": [], "logprobs": []}, frames)
        elif kind == "reasoning":
            self._part("added", {"type": "reasoning_text", "text": ""}, frames)

    def _added(self, item: Item) -> JsonObject:
        """The document of an item that begins."""
        if item.kind is ItemKind.MESSAGE:
            return {
                "id": new_id("message", item.id), "type": "message", "role": "assistant", "status": "in_progress",
                "content": [],
            }  # fmt: skip
        if item.kind is ItemKind.REASONING:
            return {
                "id": new_id("reasoning", item.id), "type": "reasoning", "summary": [], "content": [],
                "encrypted_content": None, "status": "in_progress",
            }  # fmt: skip
        origin = self._origins.get(item.name, ToolOrigin("function", item.name))
        kind = "function_call" if origin.kind == "function" else "custom_tool_call"
        document: JsonObject = {
            "id": new_id(kind, item.id), "type": kind, "call_id": item.call_id, "name": origin.name, _TEXTS[kind]: "",
            "status": "in_progress",
        }  # fmt: skip
        return document if origin.namespace is None else {**document, "namespace": origin.namespace}

    def _delta(self, text: str, logprobs: Logprobs, frames: list[Frame]) -> None:
        item = self._item
        assert item is not None
        if item.kind == "message":
            extra = b',"logprobs":[]'
            if logprobs:
                item.logprobs += logprobs
                extra = b',"logprobs":' + orjson.dumps(_without_bytes(logprobs))
        else:
            extra = b""
            if item.custom is not None:
                text = item.custom.feed(text)
                if not text:
                    return
                item.pieces.append(text)
        number = self._number
        self._number = number + 1
        document = b'%b%b%b,"sequence_number":%d}' % (item.prefix, orjson.dumps(text), extra, number)
        frames.append((item.delta_name, document))

    def _done(self, item: Item, frames: list[Frame]) -> None:
        own = self._item
        assert own is not None
        is_complete = item.status is ItemStatus.COMPLETED
        text = item.text
        if own.custom is not None:
            if rest := own.custom.finish():
                own.pieces.append(rest)
                document = b'%b%b,"sequence_number":%d}' % (own.prefix, orjson.dumps(rest), self._number)
                self._number += 1
                frames.append((own.delta_name, document))
            text = "".join(own.pieces)
        elif own.kind == "function_call" and not text and is_complete:
            text = _EMPTY_ARGUMENTS
        place: JsonObject = {"item_id": own.document["id"], "output_index": len(self.output)}
        done: JsonObject = {_TEXTS[own.kind]: text}
        if own.kind in ("message", "reasoning"):
            place["content_index"] = 0
        if own.kind == "message":
            done["logprobs"] = _without_bytes(own.logprobs) if self._with_logprobs else []
        elif own.kind == "function_call":
            done = {"name": own.document["name"], **done}
        frames.append(self._frame(_DELTAS[own.kind].removesuffix("delta") + "done", {**place, **done}))
        document_ended = self._ended(own, text, is_complete)
        if own.kind in ("message", "reasoning"):
            content = document_ended["content"]
            assert isinstance(content, list)
            self._part("done", content[0], frames)
        ended: JsonObject = {"output_index": len(self.output), "item": document_ended}
        frames.append(self._frame("response.output_item.done", ended))
        self.output.append(document_ended)
        self._item = None

    def _ended(self, item: _OpenItem, text: str, is_complete: bool) -> JsonObject:
        """The item with all that it has come to."""
        document = {**item.document, "status": "completed" if is_complete else "incomplete"}
        if item.kind == "message":
            logprobs = item.logprobs if self._with_logprobs else []
            document["content"] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}]
        elif item.kind == "reasoning":
            document["content"] = [{"type": "reasoning_text", "text": text}]
            if self._seal is not None:
                document["encrypted_content"] = self._seal(text)
        else:
            document[_TEXTS[item.kind]] = text
        return document

    def _part(self, step: str, part: JsonObject, frames: list[Frame]) -> None:
        item = self._item
        assert item is not None
        place = {"item_id": item.document["id"], "output_index": len(self.output), "content_index": 0}
        frames.append(self._frame(f"response.content_part.{step}", {**place, "part": part}))

    def _frame(self, name: str, fields: JsonObject) -> Frame:
        number = self._number
        self._number = number + 1
        return name.encode(), orjson.dumps({"type": name, **fields, "sequence_number": number})

    def _lifecycle(self, name: str) -> Frame:
        return self._frame(name, {"response": self.response()})


def _without_bytes(logprobs: Logprobs) -> list[JsonObject]:
    """Entries as events show them. Items show the bytes of the tokens too."""
    alternatives = [_without_bytes(_listed(entry.get("top_logprobs"))) for entry in logprobs]
    return [
        {name: value for name, value in entry.items() if name not in ("bytes", "top_logprobs")}
        | ({"top_logprobs": tops} if "top_logprobs" in entry else {})
        for entry, tops in zip(logprobs, alternatives, strict=True)
    ]


def _listed(value: object) -> list[JsonObject]:
    return value if isinstance(value, list) else []
