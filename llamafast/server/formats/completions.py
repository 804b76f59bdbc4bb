"""Answers of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from llamafast.request import TokenLogprob
from llamafast.server.formats.common import Formatter, Header, JsonObject, Options, finite


class CompletionFormatter(Formatter):
    """Chunks and whole answers in OpenAI's completions shape. echo: per choice, the text that comes before its own."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_object_name = "text_completion"
    text_open = b'"text":'
    text_close = b""
    last_payload = b'"text":""'

    def __init__(self, header: Header, num_choices: int, options: Options, echo: Sequence[str] = ()) -> None:
        super().__init__(header, num_choices, options)
        self._echo = echo

    def first_payload(self, index: int) -> bytes:
        """The echoed prompt, if any."""
        return self.text_open + orjson.dumps(self._echo[index]) if self._echo else b""

    def logprobs(self, entries: Sequence[TokenLogprob]) -> JsonObject:
        """Parallel lists over the tokens; each token's alternatives hold the token itself too."""
        tops: list[dict[str, float]] = []
        for entry in entries:
            top = {_token(entry.token_bytes): finite(entry.logprob)}
            for _, logprob, token_bytes in entry.top:
                # Two tokens may have one text: the likelier comes first and stays.
                top.setdefault(_token(token_bytes), finite(logprob))
            tops.append(top)
        return {
            "tokens": [_token(entry.token_bytes) for entry in entries],
            "token_logprobs": [finite(entry.logprob) for entry in entries],
            "top_logprobs": tops,
            "text_offset": [entry.text_offset for entry in entries],
        }

    def choice(self, index: int, text: str, logprobs: JsonObject | None, finish: str | None) -> JsonObject:
        """One choice of a whole answer."""
        whole = self._echo[index] + text if self._echo else text
        return {"index": index, "text": whole, "logprobs": logprobs, "finish_reason": finish}


def _token(token_bytes: bytes) -> str:
    """The token's text, or its bytes where it is only a part of a character: this shape has no bytes field."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)
