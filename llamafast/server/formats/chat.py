"""Answers of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from llamafast.parsing.reasoning import ReasoningSplitter
from llamafast.request import RequestOutput, TokenLogprob
from llamafast.server.formats.common import Formatter, Header, JsonObject, Options, finite


class ChatFormatter(Formatter):
    """Chunks and whole answers in OpenAI's chat shape.

    end_of_reasoning: the token that ends the reasoning which the prompt left open; None: the text is content.
    """

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    text_open = b'"delta":{"content":'
    text_close = b"}"
    last_payload = b'"delta":{}'

    def __init__(self, header: Header, num_choices: int, options: Options, end_of_reasoning: int | None = None) -> None:
        super().__init__(header, num_choices, options)
        self._end_of_reasoning = end_of_reasoning
        self._reasoning = {} if end_of_reasoning is None else {i: ReasoningSplitter() for i in range(num_choices)}
        self._still_reasoning = set(self._reasoning)

    def first_payload(self, index: int) -> bytes:
        """The role chunk."""
        return b'"delta":{"role":"assistant","content":""}'

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """One object per token, each with its alternatives."""
        content: list[JsonObject] = [
            {
                **_token(entry.logprob, entry.token_bytes),
                "top_logprobs": [_token(logprob, token_bytes) for _, logprob, token_bytes in entry.top],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def deltas(self, output: RequestOutput) -> Sequence[tuple[bytes, bytes]]:
        """Reasoning and content in chunks of their own; logprobs are those of the content."""
        splitter = self._reasoning.get(output.index)
        if splitter is None:
            return super().deltas(output)
        reasoning, content = splitter.add(output.text)
        if output.finish_reason is not None:
            reasoning += splitter.flush()
        chunks = []
        if reasoning:
            chunks.append((b'"delta":{"reasoning_content":%b}' % orjson.dumps(reasoning), b"null"))
        start = splitter.content_start
        if start is not None:
            entries = _from(start, output.logprobs or [])
            chunks += super().deltas(replace(output, text=content, logprobs=entries))
        return chunks

    def choice(self, index: int, text: str, entries: Sequence[TokenLogprob], finish: str | None) -> JsonObject:
        """One choice of a whole answer."""
        message: JsonObject = {"role": "assistant", "content": text, "refusal": None}
        if index in self._reasoning:
            splitter = ReasoningSplitter()
            reasoning, message["content"] = splitter.add(text)
            message["reasoning_content"] = reasoning + splitter.flush()
            entries = [] if splitter.content_start is None else _from(splitter.content_start, entries)
        logprobs = None if self._options.num_logprobs is None else self.logprobs(index, entries)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def extra_fields(self) -> JsonObject:
        """The logprobs of the prompt, which all choices share."""
        return self.prompt_logprobs(0)

    def _note(self, output: RequestOutput) -> bool:
        if output.index in self._still_reasoning:
            token_ids = output.token_ids
            if self._end_of_reasoning in token_ids:
                self._still_reasoning.remove(output.index)
                token_ids = token_ids[: token_ids.index(self._end_of_reasoning) + 1]
            self._num_reasoning_tokens += len(token_ids)
        return super()._note(output)


def _from(start: int, entries: Sequence[TokenLogprob]) -> list[TokenLogprob]:
    return [entry for entry in entries if entry.text_offset >= start]


def _token(logprob: float, token_bytes: bytes) -> JsonObject:
    return {"token": token_bytes.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(token_bytes)}
