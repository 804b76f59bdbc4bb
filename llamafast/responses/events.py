"""From the events of an answer to the events and the items of a response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson

from llamafast.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning
from llamafast.responses.custom_input import CustomInput
from llamafast.responses.items import new_id
from llamafast.responses.tools import ToolOrigin

JsonObject = dict[str, object]
Frame = tuple[bytes, bytes]  # the type of an event, and the event as JSON

_EMPTY_ARGUMENTS = "{}"
_ARGUMENTS_DELTA = b"response.function_call_arguments.delta"
_CUSTOM_DELTA = b"response.custom_tool_call_input.delta"


class _Item:
    """The item that is open. text: its pieces. document: the item as it is added; done() gives it as it ends."""

    __slots__ = ("custom", "document", "kind", "logprobs", "prefix", "text")

    def __init__(self, kind: str, document: JsonObject, prefix: bytes) -> None:
        self.kind = kind
        self.document = document
        self.prefix = prefix  # of the JSON of its deltas, up to the text
        self.text: list[str] = []
        self.logprobs: list[JsonObject] = []
        self.custom: CustomInput | None = None


class ResponseEvents:
    """Writes the events of one response, in OpenAI's order: one item is open at a time.

    head: the response object with all fields; status, output, usage and their like are set here. origins: the tools by
    the name that the model sees. with_logprobs: the items show logprobs. seal: what packs reasoning into
    `encrypted_content`; None: it stays null. Each method returns frames; numbers go up by one from 0 over all of them.
    """

    def __init__(
        self,
        head: JsonObject,
        origins: Mapping[str, ToolOrigin],
        *,
        with_logprobs: bool = False,
        seal: Callable[[str], str] | None = None,
    ) -> None:
        self.output: list[JsonObject] = []
        self.status = "in_progress"
        self._head = head
        self._origins = origins
        self._with_logprobs = with_logprobs
        self._seal = seal
        self._number = 0
        self._item: _Item | None = None
        self._held = ""  # white space before a message that may never come

    @property
    def num_events(self) -> int:
        """How many there were."""
        return self._number

    def start(self, *, is_queued: bool = False) -> list[Frame]:
        """The events before the first item."""
        if not is_queued:
            return [self._lifecycle("response.created"), self._lifecycle("response.in_progress")]
        self.status = "queued"
        frames = [self._lifecycle("response.created"), self._lifecycle("response.queued")]
        self.status = "in_progress"
        return [*frames, self._lifecycle("response.in_progress")]

    def read(self, events: Iterable[Event], logprobs: Sequence[JsonObject] = ()) -> list[Frame]:
        """What the events of an answer add. logprobs: of the tokens of their content."""
        frames: list[Frame] = []
        for event in events:
            if isinstance(event, Content):
                self._write(event.text, logprobs, frames)
                logprobs = ()
            elif isinstance(event, Reasoning):
                self._think(event.text, frames)
            elif isinstance(event, CallStart):
                self._begin_call(event, frames)
            elif isinstance(event, CallArguments):
                self._continue_call(event.fragment, frames)
            elif isinstance(event, CallEnd):
                self._close(frames, is_complete=event.is_complete)
        return frames

    def finish(self, reason: str, usage: JsonObject, completed_at: int) -> list[Frame]:
        """The end of an answer. reason: the engine's word, `length` for one that was cut."""
        frames: list[Frame] = []
        is_cut = reason == "length"
        if self._held and not self.output and self._item is None:
            held, self._held = self._held, ""
            self._open_message(frames)
            self._text(held, (), frames)
        self._close(frames, is_complete=not is_cut)
        if not self.output and not is_cut:
            self._open_message(frames)
            self._close(frames, is_complete=True)
        self._head["usage"] = usage
        if is_cut:
            self.status = "incomplete"
            self._head["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.status = "completed"
            self._head["completed_at"] = completed_at
        return [*frames, self._lifecycle(f"response.{self.status}")]

    def fail(self, code: str, message: str) -> list[Frame]:
        """The end of an answer by an error."""
        self._close_quietly()
        self.status = "failed"
        self._head["error"] = {"code": code, "message": message}
        return [self._lifecycle("response.failed")]

    def cancel(self) -> None:
        """The end of an answer that nobody wants any more. No event says so."""
        self._close_quietly()
        self.status = "cancelled"

    def response(self) -> JsonObject:
        """The response object as it is now."""
        return {**self._head, "status": self.status, "output": self.output}

    def _think(self, text: str, frames: list[Frame]) -> None:
        self._held = ""
        if self._item is None or self._item.kind != "reasoning":
            self._close(frames, is_complete=True)
            document: JsonObject = {
                "id": new_id("reasoning"), "type": "reasoning", "summary": [], "content": [],
                "encrypted_content": None, "status": "in_progress",
            }  # fmt: skip
            self._open("reasoning", document, b"response.reasoning_text.delta", frames)
            self._part("added", {"type": "reasoning_text", "text": ""}, frames)
        item = self._item
        assert item is not None
        item.text.append(text)
        frames.append((b"response.reasoning_text.delta", self._delta(item, text, b"")))

    def _write(self, text: str, logprobs: Sequence[JsonObject], frames: list[Frame]) -> None:
        if self._item is None or self._item.kind != "message":
            text, self._held = self._held + text, ""
            if not text.strip():
                self._held = text
                return
            self._close(frames, is_complete=True)
            self._open_message(frames)
        self._text(text, logprobs, frames)

    def _text(self, text: str, logprobs: Sequence[JsonObject], frames: list[Frame]) -> None:
        item = self._item
        assert item is not None
        item.text.append(text)
        item.logprobs += logprobs
        listed = (
            orjson.dumps([{k: v for k, v in entry.items() if k != "bytes"} for entry in logprobs])
            if logprobs
            else b"[]"
        )
        frames.append((b"response.output_text.delta", self._delta(item, text, b',"logprobs":' + listed)))

    def _begin_call(self, event: CallStart, frames: list[Frame]) -> None:
        self._held = ""
        self._close(frames, is_complete=True)
        origin = self._origins.get(event.name, ToolOrigin("function", event.name))
        kind = "function_call" if origin.kind == "function" else "custom_tool_call"
        text = "arguments" if kind == "function_call" else "input"
        document: JsonObject = {
            "id": new_id(kind), "type": kind, "call_id": event.call_id or new_id("call"), "name": origin.name, text: "",
            "status": "in_progress",
        }  # fmt: skip
        if origin.namespace is not None:
            document["namespace"] = origin.namespace
        delta = (
            b"response.function_call_arguments.delta"
            if text == "arguments"
            else b"response.custom_tool_call_input.delta"
        )
        self._open(kind, document, delta, frames)
        if text == "input" and self._item is not None:
            self._item.custom = CustomInput()

    def _continue_call(self, fragment: str, frames: list[Frame]) -> None:
        item = self._item
        assert item is not None
        if item.custom is not None:
            fragment = item.custom.feed(fragment)
            if not fragment:
                return
        self._argument(item, fragment, frames)

    def _argument(self, item: _Item, text: str, frames: list[Frame]) -> None:
        name = _CUSTOM_DELTA if item.custom else _ARGUMENTS_DELTA
        item.text.append(text)
        frames.append((name, self._delta(item, text, b"")))

    def _open_message(self, frames: list[Frame]) -> None:
        document: JsonObject = {
            "id": new_id("message"), "type": "message", "role": "assistant", "status": "in_progress", "content": [],
        }  # fmt: skip
        self._open("message", document, b"response.output_text.delta", frames)
        self._part("added", {"type": "output_text", "text": "", "annotations": [], "logprobs": []}, frames)

    def _open(self, kind: str, document: JsonObject, delta: bytes, frames: list[Frame]) -> _Item:
        place: JsonObject = {"item_id": document["id"], "output_index": len(self.output)}
        if kind in ("message", "reasoning"):
            place["content_index"] = 0
        prefix = orjson.dumps({"type": delta.decode(), **place})[:-1] + b',"delta":'
        self._item = item = _Item(kind, document, prefix)
        frames.append(self._frame("response.output_item.added", {"output_index": len(self.output), "item": document}))
        return item

    def _close(self, frames: list[Frame], *, is_complete: bool) -> None:
        item = self._item
        if item is None:
            return
        if item.custom is not None and (rest := item.custom.finish()):
            self._argument(item, rest, frames)
        if item.kind == "function_call" and not item.text and is_complete:
            item.text.append(_EMPTY_ARGUMENTS)
        text = "".join(item.text)
        place: JsonObject = {"item_id": item.document["id"], "output_index": len(self.output)}
        if item.kind == "message":
            place["content_index"] = 0
            logprobs = item.logprobs if self._with_logprobs else []
            frames.append(self._frame("response.output_text.done", {**place, "text": text, "logprobs": logprobs}))
        elif item.kind == "reasoning":
            place["content_index"] = 0
            frames.append(self._frame("response.reasoning_text.done", {**place, "text": text}))
        elif item.kind == "function_call":
            done = {**place, "name": item.document["name"], "arguments": text}
            frames.append(self._frame("response.function_call_arguments.done", done))
        else:
            frames.append(self._frame("response.custom_tool_call_input.done", {**place, "input": text}))
        document = self._ended(item, text, is_complete)
        if item.kind in ("message", "reasoning"):
            content = document["content"]
            assert isinstance(content, list)
            self._part("done", content[0], frames)
        frames.append(self._frame("response.output_item.done", {"output_index": len(self.output), "item": document}))
        self.output.append(document)
        self._item = None

    def _close_quietly(self) -> None:
        self._close([], is_complete=False)

    def _ended(self, item: _Item, text: str, is_complete: bool) -> JsonObject:
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
            document["arguments" if item.kind == "function_call" else "input"] = text
        return document

    def _part(self, step: str, part: JsonObject, frames: list[Frame]) -> None:
        item = self._item
        assert item is not None
        place = {"item_id": item.document["id"], "output_index": len(self.output), "content_index": 0}
        frames.append(self._frame(f"response.content_part.{step}", {**place, "part": part}))

    def _delta(self, item: _Item, text: str, extra: bytes) -> bytes:
        number = self._number
        self._number = number + 1
        return b'%b%b%b,"sequence_number":%d}' % (item.prefix, orjson.dumps(text), extra, number)

    def _frame(self, name: str, fields: JsonObject) -> Frame:
        number = self._number
        self._number = number + 1
        return name.encode(), orjson.dumps({"type": name, **fields, "sequence_number": number})

    def _lifecycle(self, name: str) -> Frame:
        return self._frame(name, {"response": self.response()})


def _without_bytes(logprobs: Sequence[JsonObject]) -> list[JsonObject]:
    """Entries as events show them; items show the tokens' bytes too."""
    return [{name: value for name, value in entry.items() if name != "bytes"} for entry in logprobs]
