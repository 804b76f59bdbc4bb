"""Answers of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from llamafast.chat.events import CallArguments, CallStart, Content, Event, ParsedMessage, Reasoning
from llamafast.request import RequestOutput, TokenLogprob
from llamafast.server.answers.formatter import Formatter, Header, JsonObject, Options, finite, json_list
from llamafast.server.chat.choice import ChoiceReader, ReadOptions


class ChatFormatter(Formatter):
    """Chunks and whole answers in OpenAI's chat shape: both are sums of the same events.

    Reasoning stands under `reasoning_content` and under `reasoning`: servers and clients use one or the other.
    """

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    text_open = b'"delta":{"content":'
    text_close = b"}"
    last_payload = b'"delta":{}'

    def __init__(self, header: Header, num_choices: int, options: Options, read_options: ReadOptions) -> None:
        super().__init__(header, num_choices, options)
        self._read_options = read_options
        self._wants_logprobs = options.num_logprobs is not None
        self._readers = [ChoiceReader(read_options) for _ in range(num_choices)]
        self._events: list[list[Event]] = [[] for _ in range(num_choices)]
        self._logprobs = [_ContentLogprobs() for _ in range(num_choices)]
        self._has_content = [False] * num_choices

    def first_payload(self, index: int) -> bytes:
        """The role chunk. Its content is null, as that of the whole message may be, where calls may take its place."""
        return b'"delta":{"role":"assistant","content":%b}' % (b"null" if self._read_options.calls else b'""')

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """One object per token, each with its alternatives."""
        content = json_list(
            {
                **_token(entry.logprob, entry.token_bytes),
                "top_logprobs": [_token(logprob, token_bytes) for _, logprob, token_bytes in entry.top],
            }
            for entry in entries
        )
        return {"content": content, "refusal": None}

    def deltas(self, output: RequestOutput) -> Sequence[tuple[bytes, bytes]]:
        """A chunk for each event that shows; logprobs are those of the content."""
        index = output.index
        chunks: list[tuple[bytes, bytes]] = []
        for event in self._read(output):
            if type(event) is Content:
                self._has_content[index] = True
                entries = self._logprobs[index].of(event) if self._wants_logprobs else ()
                chunks.append(self._content(event.text, entries))
            elif payload := self._payload(event):
                chunks.append((payload, b"null"))
        if self._choices[index].finish_reason is None:
            return chunks
        rest = self._logprobs[index].rest(self._readers[index].num_chars)
        # Without calls the content of a message is a text, if an empty one.
        lacks_content = self._read_options.calls and not (self._has_content[index] or self._readers[index].num_calls)
        if rest or lacks_content:
            chunks.append(self._content("", rest))
        return chunks

    def keep(self, output: RequestOutput) -> None:
        """Add an output to the message of its choice."""
        index = output.index
        events = self._read(output)
        self._events[index] += events
        if not self._wants_logprobs:
            return
        choice, logprobs = self._choices[index], self._logprobs[index]
        for event in events:
            if type(event) is Content:
                choice.logprobs += logprobs.of(event)
        if choice.finish_reason is not None:
            choice.logprobs += logprobs.rest(self._readers[index].num_chars)

    def choice(self, index: int, finish: str | None) -> JsonObject:
        """One choice of a whole answer."""
        parsed = ParsedMessage.of(self._events[index])
        content = None if parsed.calls and not parsed.content else parsed.content
        message: JsonObject = {"role": "assistant", "content": content, "refusal": None}
        if parsed.reasoning and self._read_options.shows_reasoning:
            message["reasoning_content"] = message["reasoning"] = parsed.reasoning
        if parsed.calls and self._read_options.is_legacy:
            message["function_call"] = {"name": parsed.calls[0].name, "arguments": parsed.calls[0].arguments}
        elif parsed.calls:
            message["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in parsed.calls
            ]
        entries = self._choices[index].logprobs
        logprobs = self.logprobs(index, entries) if self._wants_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def extra_fields(self) -> JsonObject:
        """The logprobs of the prompt, which all choices share."""
        return self.prompt_logprobs(0)

    @property
    def num_reasoning_tokens(self) -> int:
        """Of all choices."""
        return sum(reader.num_reasoning_tokens for reader in self._readers)

    def _read(self, output: RequestOutput) -> list[Event]:
        reader, choice = self._readers[output.index], self._choices[output.index]
        if output.logprobs:
            self._logprobs[output.index].waiting += output.logprobs
        events = reader.read(output)
        if reader.is_over:
            choice.finish_reason = reader.finish_reason("stop")
            if output.finish_reason is None:
                choice.is_over = True
                self.to_finish.append(output.index)
        elif choice.finish_reason is not None:
            choice.finish_reason = reader.finish_reason(choice.finish_reason)
        return events

    def _content(self, text: str, entries: Sequence[TokenLogprob]) -> tuple[bytes, bytes]:
        logprobs = orjson.dumps(self.logprobs(0, entries)) if entries else b"null"
        return self.text_open + orjson.dumps(text) + self.text_close, logprobs

    def _payload(self, event: Event) -> bytes:
        """What an event beside content shows; empty for nothing."""
        if isinstance(event, Reasoning):
            if not self._read_options.shows_reasoning:
                return b""
            text = orjson.dumps(event.text)
            return b'"delta":{"reasoning_content":%b,"reasoning":%b}' % (text, text)
        if isinstance(event, CallStart):
            function = b'{"name":%b,"arguments":""}' % orjson.dumps(event.name)
            if self._read_options.is_legacy:
                return b'"delta":{"function_call":%b}' % function
            head = b'"index":%d,"id":%b,"type":"function"' % (event.index, orjson.dumps(event.call_id))
            return b'"delta":{"tool_calls":[{%b,"function":%b}]}' % (head, function)
        if isinstance(event, CallArguments):
            function = b'{"arguments":%b}' % orjson.dumps(event.fragment)
            if self._read_options.is_legacy:
                return b'"delta":{"function_call":%b}' % function
            return b'"delta":{"tool_calls":[{"index":%d,"function":%b}]}' % (event.index, function)
        return b""


class _ContentLogprobs:
    """The logprobs of one choice's tokens until it is certain whether their text is content."""

    __slots__ = ("_end", "waiting")

    def __init__(self) -> None:
        self.waiting: list[TokenLogprob] = []
        self._end = 0  # of the content so far

    def of(self, content: Content) -> list[TokenLogprob]:
        """Those with text in this piece that no earlier piece had; what lies before it is forgotten."""
        start, waiting = content.start, self.waiting
        self._end = end = start + len(content.text)
        entries = [entry for entry in waiting if start <= entry.text_offset < end]
        self.waiting = [entry for entry in waiting if entry.text_offset >= end]
        num_before = next((i for i, entry in enumerate(waiting) if entry.text_offset >= start), len(waiting))
        if num_before:  # the white space at the beginning of a token may be cut
            last = waiting[num_before - 1]
            after = waiting[num_before].text_offset if num_before < len(waiting) else last.text_offset + _length(last)
            if after > start:
                entries.insert(0, last)
        return entries

    def rest(self, num_chars: int) -> list[TokenLogprob]:
        """Those of tokens without text at the very end, if that is the end of the content."""
        entries, self.waiting = self.waiting, []
        return entries if self._end == num_chars else []


def _length(entry: TokenLogprob) -> int:
    return len(entry.token_bytes.decode("utf-8", "replace"))


def _token(logprob: float, token_bytes: bytes) -> JsonObject:
    return {"token": token_bytes.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(token_bytes)}
