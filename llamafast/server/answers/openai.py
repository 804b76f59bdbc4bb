"""OpenAI's dialect: errors, streams and the usage object of its chat and completions APIs."""

from __future__ import annotations

from typing import ClassVar

import orjson

from llamafast.server.answers.dialect import Dialect
from llamafast.server.answers.failure import Failure
from llamafast.server.answers.formatter import JsonObject
from llamafast.server.answers.framing import EVENT_STREAM, KEEPALIVE, Framing
from llamafast.server.answers.options import AnswerOptions
from llamafast.server.answers.usage import AnswerUsage

DONE = b"data: [DONE]\n\n"


class OpenAIDialect(Dialect):
    """Errors are {"error": {...}}. Streams are server-sent events without names and end with [DONE]."""

    framing: ClassVar[Framing] = Framing(EVENT_STREAM, before=b"data: ", after=b"\n\n", end=DONE, keepalive=KEEPALIVE)

    def error_document(self, failure: Failure) -> bytes:
        """{"error": {"message", "type", "param", "code"}}. Unknown values are null."""
        return orjson.dumps(
            {
                "error": {
                    "message": failure.message,
                    "type": failure.type,
                    "param": failure.param,
                    "code": failure.code,
                }
            }
        )


OPENAI = OpenAIDialect()


def usage_object(usage: AnswerUsage, options: AnswerOptions) -> JsonObject:
    """OpenAI's usage object.

    Extensions: the tokens of images and sounds, and, if the client asks for it, `cache_miss`: where and why the cached
    part of each prompt ends.
    """
    details: JsonObject = {"cached_tokens": usage.cached_tokens}
    if options.image_tokens or options.audio_tokens:
        details |= {"image_tokens": options.image_tokens, "audio_tokens": options.audio_tokens}
    if options.cache_info and usage.misses:
        details["cache_miss"] = cache_misses(usage)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def cache_misses(usage: AnswerUsage) -> object:
    """Where and why the cached part of each prompt ends: one object for one prompt, else a list."""
    misses = [{"reason": miss.reason.value, "position": miss.position} for miss in usage.misses]
    return misses[0] if len(misses) == 1 else misses
