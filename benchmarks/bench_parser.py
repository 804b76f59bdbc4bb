"""What the parsers of answers cost: microseconds per token of content, reasoning and string arguments, by length.

Every format takes a text apart token by token, as it comes from the engine: flat means no text is looked at twice.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' writers know how each format looks

from llamafast.parsing.tool_formats import registry
from tests.parsing.messages import TOOLS, Message
from tests.parsing.writers import WRITERS, Written

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
    # Short texts several times, or the clock's steps show.
    rounds = max(1, 2_000 // len(tokens))
    best = float("inf")
    for _ in range(REPEATS):
        parsers = [registry.by_name(format).parser(written.prompt, TOOLS) for _ in range(rounds)]
        start = time.perf_counter()
        for parser in parsers:
            feed = parser.feed
            for token in tokens:
                feed(token)
            parser.finish()
        best = min(best, time.perf_counter() - start)
    return best / rounds / len(tokens) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="up to 1,000 tokens")
    options.add_argument("--formats", nargs="+", choices=registry.names(), default=registry.names())
    arguments = options.parse_args()
    sizes = SIZES[:2] if arguments.quick else SIZES
    kinds = list(messages(1))
    result: dict[str, dict[str, list[float]]] = {}
    print(f"us per token at {', '.join(f'{size:,}' for size in sizes)} tokens\n")
    print(f"| format | {' | '.join(kinds)} |\n| --- |{' --- |' * len(kinds)}")
    for format in arguments.formats:
        result[format] = {kind: [] for kind in kinds if format != "plain" or kind != "arguments"}
        for size in sizes:
            for kind, values in result[format].items():
                # Reasoning that the prompt has opened, as most models' prompts do; the rest without any.
                written = WRITERS[format](messages(size)[kind], kind == "reasoning")
                values.append(round(us_per_token(format, written), 2))
        cells = [", ".join(f"{value:.2f}" for value in result[format].get(kind, [])) for kind in kinds]
        print(f"| {format} | {' | '.join(cells)} |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
