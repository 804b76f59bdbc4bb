"""Answers of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from llamafast.chat.events import CallArguments, CallStart, Content, Event, ParsedMessage, Reasoning
from llamafast.request import RequestOutput, TokenLogprob
from llamafast.server.answers.answer_reader import AnswerReader
from llamafast.server.answers.chunks import ChunkFormatter
from llamafast.server.answers.formatter import JsonObject
from llamafast.server.answers.logprobs import finite, json_list
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.chat.choice import ReadOptions


class ChatFormatter(ChunkFormatter):
    """Chunks and whole answers of OpenAI's chat API. Both are made from the same events.

    Reasoning is written in two fields with the same text, `reasoning_content` and `reasoning`: clients read one or the
    other.
    """

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    text_open = b'"delta":{"content":'
    text_close = b"}"
    last_payload = b'"delta":{}'

    def __init__(
        self, header: AnswerHeader, num_choices: int, options: AnswerOptions, read_options: ReadOptions
    ) -> None:
        super().__init__(header, num_choices, options)
        self._read_options = read_options
        self._wants_logprobs = options.num_logprobs is not None
        self._reader = AnswerReader(read_options, self.progress)
        self._read = self._reader.read
        self._events: list[list[Event]] = [[] for _ in range(num_choices)]
        self._kept_logprobs: list[list[TokenLogprob]] = [[] for _ in range(num_choices)]
        self._has_content = [False] * num_choices

    def first_payload(self, index: int) -> bytes:
        """The role chunk. Its content is null if the answer may be calls, and "" otherwise."""
        return b'"delta":{"role":"assistant","content":%b}' % (b"null" if self._read_options.calls else b'""')

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """One object per token, each with its alternatives."""
        return {"content": json_list(map(token_logprobs, entries)), "refusal": None}

    def write(self, output: RequestOutput, parts: list[bytes]) -> None:
        """Append a chunk for each visible event. Only content has logprobs. OUT parts."""
        index = output.index
        for event in self._read(output):
            if type(event) is Content:
                self._has_content[index] = True
                if self._wants_logprobs:
                    entries = self._reader.logprobs[index].of(event.text, event.start)
                    parts += self._content(index, event.text, entries)
                else:
                    parts += self.text_chunk(index, event.text)
            elif payload := self._payload(event):
                parts += self.chunk(index, payload)
        if self._choices[index].finish_reason is None:
            return
        reader = self._reader.choices[index]
        rest = self._reader.logprobs[index].rest(reader.num_chars)
        # In a message without calls the content is a string, even if it is empty.
        lacks_content = self._read_options.calls and not (self._has_content[index] or reader.num_calls)
        if rest or lacks_content:
            parts += self._content(index, "", rest)

    def keep(self, output: RequestOutput) -> None:
        """Add an output to the message of its choice."""
        index = output.index
        events = self._read(output)
        self._events[index] += events
        if not self._wants_logprobs:
            return
        kept, logprobs = self._kept_logprobs[index], self._reader.logprobs[index]
        for event in events:
            if type(event) is Content:
                kept += logprobs.of(event.text, event.start)
        if self._choices[index].finish_reason is not None:
            kept += logprobs.rest(self._reader.choices[index].num_chars)

    def choice(self, index: int) -> JsonObject:
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
        logprobs = self.logprobs(index, self._kept_logprobs[index]) if self._wants_logprobs else None
        finish = self.finish_reason(index)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def finish_reason(self, index: int) -> str | None:
        """OpenAI's finish reason of a choice; None while it runs."""
        reason = super().finish_reason(index)
        return None if reason is None else self._reader.choices[index].finish_reason(reason)

    def extra_fields(self) -> JsonObject:
        """The logprobs of the prompt, which all choices share."""
        return self.prompt_logprobs(0)

    @property
    def num_reasoning_tokens(self) -> int:
        """Generated tokens that are reasoning, of all choices."""
        return self._reader.num_reasoning_tokens

    def _content(self, index: int, text: str, entries: Sequence[TokenLogprob]) -> tuple[bytes, ...]:
        """The pieces of a content chunk."""
        if not entries:
            return self.text_chunk(index, text)
        payload = self.text_open + orjson.dumps(text) + self.text_close
        return self.chunk(index, payload, orjson.dumps(self.logprobs(index, entries)))

    def _payload(self, event: Event) -> bytes:
        """The payload of an event that is not content; empty for an event that is not visible."""
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


def token_logprobs(entry: TokenLogprob) -> JsonObject:
    """OpenAI's object for one token, with its alternatives."""
    alternatives = [_token(logprob, token_bytes) for _, logprob, token_bytes in entry.top]
    return {**_token(entry.logprob, entry.token_bytes), "top_logprobs": alternatives}


def _token(logprob: float, token_bytes: bytes) -> JsonObject:
    return {"token": token_bytes.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(token_bytes)}
