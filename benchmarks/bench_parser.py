"""Measures the parsers of answers: microseconds per token of content, reasoning and string arguments, by length.

Each parser reads a text token by token, as it comes from the engine. If the time does not grow with the length, no text
is read twice.
usage: python benchmarks/bench_parser.py [--quick] [--formats NAME ...]
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # the tests can write every format

from llamafast.chat.formats import registry
from tests.chat.messages import TOOLS, Message
from tests.chat.more_writers import WRITERS
from tests.chat.writers import Written

SIZES = (100, 1_000, 32_000)
REPEATS = 5
WORDS = """The quick brown fox jumps over the lazy dog. "Why not?", said the 3 (three) others: it's a -1 < 2 case,
    with a [list], a {dict} and C:\\path\\to\\files; then it ended. Naïve café, 10% off!
"""


def text_of(num_tokens: int) -> str:
    tokens = re.findall(r" ?\w+|\W", WORDS)
    return "".join(tokens[i % len(tokens)] for i in range(num_tokens)).strip()


def messages(num_tokens: int) -> dict[str, Message]:
    text = text_of(num_tokens)
    return {
        "content": Message(content=text),
        "reasoning": Message(content="ok", reasoning=text),
        "arguments": Message(calls=(("run", {"code": text}),)),
    }


def us_per_token(format: str, written: Written) -> float:
    tokens = re.findall(r" ?\w+|\W", written.text)
    # Short texts are read several times, since the clock's resolution is limited.
    rounds = max(1, 2_000 // len(tokens))
    parsers = [registry.by_name(format).parser(written.prompt, TOOLS) for _ in range(rounds)]
    start = time.perf_counter()
    for parser in parsers:
        feed = parser.feed
        for token in tokens:
            feed(token)
        parser.finish()
    return (time.perf_counter() - start) / rounds / len(tokens) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="up to 1,000 tokens")
    options.add_argument("--formats", nargs="+", choices=registry.names(), default=registry.names())
    arguments = options.parse_args()
    sizes = SIZES[:2] if arguments.quick else SIZES
    kinds = list(messages(1))
    # The prompt has opened the reasoning, as for most models. The other kinds have no reasoning.
    cells = {
        (format, kind, size): WRITERS[format](message, kind == "reasoning")
        for format in arguments.formats
        for size in sizes
        for kind, message in messages(size).items()
        if format != "plain" or kind != "arguments"
    }
    best = dict.fromkeys(cells, float("inf"))
    for _ in range(REPEATS):  # repeat all cases together: the machine may be slow for a second
        for cell, written in cells.items():
            best[cell] = min(best[cell], us_per_token(cell[0], written))
    result = {
        format: {
            kind: [round(best[format, kind, size], 2) for size in sizes if (format, kind, size) in best]
            for kind in kinds
        }
        for format in arguments.formats
    }
    print(f"us per token at {', '.join(f'{size:,}' for size in sizes)} tokens\n")
    print(f"| format | {' | '.join(kinds)} |\n| --- |{' --- |' * len(kinds)}")
    for format, row in result.items():
        print(f"| {format} | {' | '.join(', '.join(f'{value:.2f}' for value in values) for values in row.values())} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
