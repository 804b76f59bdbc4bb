"""Answers of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from llamafast.request import TokenLogprob
from llamafast.server.formats.common import Formatter, JsonObject, finite


class ChatFormatter(Formatter):
    """Chunks and whole answers in OpenAI's chat shape."""

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"
    text_open = b'"delta":{"content":'
    text_close = b"}"
    last_payload = b'"delta":{}'

    def first_payload(self, index: int) -> bytes:
        """The role chunk."""
        return b'"delta":{"role":"assistant","content":""}'

    def logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> JsonObject:
        """One object per token, each with its alternatives."""
        content = [
            {
                **_token(entry.logprob, entry.token_bytes),
                "top_logprobs": [_token(logprob, token_bytes) for _, logprob, token_bytes in entry.top],
            }
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def choice(self, index: int, text: str, entries: Sequence[TokenLogprob], finish: str | None) -> JsonObject:
        """One choice of a whole answer."""
        logprobs = None if self._options.num_logprobs is None else self.logprobs(index, entries)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def extra_fields(self) -> JsonObject:
        """The logprobs of the prompt, which all choices share."""
        return self.prompt_logprobs(0)


def _token(logprob: float, token_bytes: bytes) -> JsonObject:
    return {"token": token_bytes.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(token_bytes)}
