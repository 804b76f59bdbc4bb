"""The cost of a streamed token in the Responses API, against the chat API: interleaved runs in one process.

Prints one line of JSON: microseconds per token of each, and their ratio. No engine runs: the outputs are made up.

usage: python benchmarks/bench_responses.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from llamafast.chat.formats.qwen3_xml import Qwen3Xml
from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.formatter import Formatter
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.answers.responses import ResponseFormatter
from llamafast.server.chat.choice import ReadOptions

_NUM_TOKENS = 2000
_REPEATS = 30
_WORDS = ["The", " capital", " of", " France", " is", " Paris", ".", " It", ' has "', "many", '" cafés', "\n"]


def outputs_of(num_tokens: int) -> list[list[RequestOutput]]:
    """One delivery per token."""
    made = [[RequestOutput("r", 0, _WORDS[i % len(_WORDS)], [i])] for i in range(num_tokens)]
    made[-1][0].finish_reason, made[-1][0].usage = FinishReason.STOP, Usage(10, num_tokens, 0)
    return made


def read_options() -> ReadOptions:
    """Plain text: what nearly all tokens are."""
    return ReadOptions(lambda: Qwen3Xml().parser("", None))


def chat() -> Formatter:
    """A formatter of the chat API."""
    return ChatFormatter(AnswerHeader.new("chatcmpl", "m", "fp"), 1, AnswerOptions(), read_options())


def response() -> Formatter:
    """A formatter of the Responses API."""
    return ResponseFormatter({"id": "resp_1", "tools": []}, {}, read_options(), AnswerOptions())


def micros_per_token(make: Callable[[], Formatter], num_tokens: int) -> float:
    """Of one stream."""
    deliveries, formatter = outputs_of(num_tokens), make()
    start = time.perf_counter()
    formatter.start()
    for delivery in deliveries:
        formatter.frames(delivery)
    formatter.end()
    return (time.perf_counter() - start) / num_tokens * 1e6


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 5 if parser.parse_args().quick else _REPEATS
    chats, responses = [], []
    for _ in range(repeats):
        chats.append(micros_per_token(chat, _NUM_TOKENS))
        responses.append(micros_per_token(response, _NUM_TOKENS))
    best_chat, best_response = min(chats), min(responses)
    result = {
        "chat_us_per_token": round(best_chat, 2),
        "responses_us_per_token": round(best_response, 2),
        "ratio": round(best_response / best_chat, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
