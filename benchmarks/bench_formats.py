"""Measures the cost of turning outputs into answers: microseconds per token, without engine and HTTP.

Each delivery has one token of one choice, as in a stream. "completions" has no parser.
usage: python benchmarks/bench_formats.py [--quick]
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable

from bench_parser import text_of

from llamafast.chat.formats import registry
from llamafast.chat.tools import Tool
from llamafast.request import FinishReason, RequestOutput, Usage
from llamafast.server.answers.chat import ChatFormatter
from llamafast.server.answers.completions import CompletionFormatter
from llamafast.server.answers.formatter import Formatter
from llamafast.server.answers.options import AnswerHeader, AnswerOptions
from llamafast.server.chat.choice import ReadOptions

NUM_TOKENS = 2_000
REPEATS = 25
HEADER = AnswerHeader("id", 0, "model", "fingerprint")
TOOLS = [Tool("run", parameters={"type": "object", "properties": {"code": {"type": "string"}}})]


def chat(**reading: object) -> Formatter:
    tools = TOOLS if reading.get("calls") else None
    parser = registry.by_name("qwen3_xml").parser
    return ChatFormatter(HEADER, 1, AnswerOptions(), ReadOptions(lambda: parser("", tools), **reading))


CASES: dict[str, Callable[[], Formatter]] = {
    "completions": lambda: CompletionFormatter(HEADER, 1, AnswerOptions(), ()),
    "chat": chat,
    "chat with tools": lambda: chat(calls=True),
    "chat with a stop string": lambda: chat(stops=("\n\nHuman:",)),
}


def deliveries() -> list[list[RequestOutput]]:
    tokens = re.findall(r" ?\w+|\W", text_of(NUM_TOKENS))
    outputs = [RequestOutput("0", 0, token, [7]) for token in tokens]
    outputs[-1].finish_reason = FinishReason.STOP
    outputs[-1].usage = Usage(10, len(tokens), 0)
    return [[output] for output in outputs]


def streamed(formatter: Formatter, outputs: list[list[RequestOutput]]) -> None:
    for delivery in outputs:
        formatter.frames(delivery)
    formatter.end()


def whole(formatter: Formatter, outputs: list[list[RequestOutput]]) -> None:
    for delivery in outputs:
        formatter.add(delivery)
    formatter.body()


def us_per_token(case: str, way: Callable[[Formatter, list[list[RequestOutput]]], None]) -> float:
    outputs, formatter = deliveries(), CASES[case]()
    start = time.perf_counter()
    way(formatter, outputs)
    return (time.perf_counter() - start) / len(outputs) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 5 if options.parse_args().quick else REPEATS
    best = {(case, way.__name__): float("inf") for case in CASES for way in (streamed, whole)}
    for _ in range(repeats):  # repeat all cases together: the machine may be slow for a second
        for case in CASES:
            for way in (streamed, whole):
                best[case, way.__name__] = min(best[case, way.__name__], us_per_token(case, way))
    print("| us per token | streamed | whole |\n| --- | ---: | ---: |")
    for case in CASES:
        print(f"| {case} | {best[case, 'streamed']:.2f} | {best[case, 'whole']:.2f} |")
    result = {case: {way: round(best[case, way], 2) for way in ("streamed", "whole")} for case in CASES}
    print(json.dumps({"us_per_token": result}))


if __name__ == "__main__":
    main()
