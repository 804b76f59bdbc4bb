"""Measures the cost of a JSON schema on every stream, on llamafast, llama-server and the example server.

"json": the built-in model with JSON tasks, greedy. The schema allows most draws. "worst": random weights and a
vocabulary of 248,320. The schema allows almost no draw.
usage: python benchmarks/bench_structured.py [--quick] [--servers ...] [--peers FOLDER]
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_serve import COLORS, machine
from load_client import LoadError, LoadSpec, percentile, run_wave, sse_events
from models import REPOSITORY, cache_folder, model_path
from peers import COMMANDS, PeerError, Server, Settings

from llamafast._core import Model
from llamafast.engine.vocabulary import grammar_vocabulary
from llamafast.grammars.compiler import GrammarCompiler
from llamafast.grammars.structured import StructuredKind, StructuredOutput
from llamafast.tokenizer import Tokenizer

STREAMS = 8
SERVERS = ("llamafast", "llama-server", "example-server")
NAMES = ("Bob", "Mia", "Tom", "Eva", "Jan", "Lea", "Max", "Ida")
CITIES = ("Berlin", "Paris", "Rome", "Madrid", "Oslo", "Vienna")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 500}


@dataclass(frozen=True, slots=True)
class Task:
    """A model, its questions, and the schema. free_runs_on: without a schema, answers must have max_tokens tokens."""

    name: str
    model: str
    schema: dict[str, object]
    max_tokens: int
    waves: int
    temperature: float
    free_runs_on: bool

    def prompt(self, rng: random.Random) -> str:
        """A question that differs from earlier ones."""
        if self.model != "builtin":
            return f"{rng.choice(COLORS)} {rng.randrange(10**6)}. Tell a long story."
        return f"JSON: name {rng.choice(NAMES)}, age {rng.randint(1, 99)} and city {rng.choice(CITIES)}"


TASKS = (
    Task("json", "builtin", PERSON, max_tokens=48, waves=24, temperature=0.0, free_runs_on=False),
    Task("worst", "random-248k", NUMBERS, max_tokens=64, waves=2, temperature=0.8, free_runs_on=True),
)


@dataclass(frozen=True, slots=True)
class Rate:
    """The result of several waves of streams: tokens per second, and milliseconds to the first text."""

    tokens_per_s: float
    ttft_ms: float


@dataclass(slots=True)
class Answer:
    """The result of one stream."""

    text: str = ""
    first_ns: int = 0
    finish_reason: str | None = None

    @classmethod
    def of(cls, events: Iterable[tuple[int, str]]) -> Answer:
        """Read server-sent events. Raises LoadError if the server reports an error."""
        answer = cls()
        for arrived_ns, data in events:
            if data == "[DONE]":
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise LoadError(f"the server reported {data}")
            for choice in chunk["choices"]:
                delta = choice.get("delta") or {}
                text = (delta.get("reasoning_content") or "") + (delta.get("content") or "")
                answer.first_ns = answer.first_ns or (arrived_ns if text else 0)
                answer.text += text
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        return answer


class Load:
    """Sends waves of chats to one server."""

    def __init__(self, task: Task, vocabulary: Model) -> None:
        self._task = task
        self._vocabulary = vocabulary
        self._end_bias = {str(i): -100 for i in range(vocabulary.n_vocab) if vocabulary.is_eog(i)}

    def run(self, server: Server, *, schema: dict[str, object] | None, streams: int, waves: int, seed: int) -> Rate:
        """Send waves of requests. Equal seeds give equal prompts. Raises LoadError."""
        rng = random.Random(seed)
        num_tokens, wall_s = 0, 0.0
        ttft_ms = []
        for _ in range(waves):
            bodies = [self._body(server.name, rng, schema) for _ in range(streams)]
            spec = LoadSpec("127.0.0.1", server.port, "/v1/chat/completions", self._task.max_tokens, [bodies])
            done = run_wave(spec, bodies)
            wall_s += (max(stream.arrivals[-1][0] for stream in done) - done[0].sent_ns) / 1e9
            for stream in done:
                answer = Answer.of(sse_events(stream))
                num_tokens += self._num_tokens(answer)
                ttft_ms.append(((answer.first_ns or stream.arrivals[-1][0]) - stream.sent_ns) / 1e6)
        return Rate(num_tokens / wall_s, statistics.median(ttft_ms))

    def _num_tokens(self, answer: Answer) -> int:
        """The number of tokens: max_tokens if the limit ended the stream, else counted from its text."""
        if answer.finish_reason == "length":
            return self._task.max_tokens
        return len(self._vocabulary.tokenize(answer.text, False, False))

    def _body(self, server: str, rng: random.Random, schema: dict[str, object] | None) -> str:
        task = self._task
        body: dict[str, object] = {
            "model": "bench",
            "messages": [{"role": "user", "content": task.prompt(rng)}],
            "max_tokens": task.max_tokens,
            "temperature": task.temperature,
            "top_p": 0.95,
            "stream": True,
        }
        if server != "example-server":  # which has no such field
            body["chat_template_kwargs"] = {"enable_thinking": False}
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        elif task.free_runs_on:
            body |= {"logit_bias": self._end_bias} if server == "example-server" else {"ignore_eos": True}
        return json.dumps(body)


def measure(task: Task, options: argparse.Namespace, logs: Path) -> list[dict[str, object]]:
    """One row per server: medians over the repeats. Raises PeerError and LoadError."""
    path = model_path(task.model, options.model_dir)
    n_ctx = STREAMS * -(-(task.max_tokens + 64) // 128) * 128
    settings = Settings(path, options.threads, n_ctx, STREAMS, options.peers.resolve(), logs)
    load = Load(task, Model(str(path), vocab_only=True))
    waves = max(1, task.waves // (4 if options.quick else 1))
    free: dict[str, list[Rate]] = {name: [] for name in options.servers}
    held: dict[str, list[Rate]] = {name: [] for name in options.servers}
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(name, settings)) for name in options.servers]
        for server in servers:
            for schema in (None, task.schema):
                load.run(server, schema=schema, streams=STREAMS, waves=1, seed=0)
        for repeat in range(options.repeats):
            for server in servers:
                for schema, rates in ((None, free), (task.schema, held)):
                    rate = load.run(server, schema=schema, streams=STREAMS, waves=waves, seed=repeat + 1)
                    rates[server.name].append(rate)
        for server in servers:
            fresh = [{**task.schema, "title": f"schema {i}"} for i in range(options.repeats)]
            first = [load.run(server, schema=schema, streams=1, waves=1, seed=i) for i, schema in enumerate(fresh)]
            again = [load.run(server, schema=schema, streams=1, waves=1, seed=i) for i, schema in enumerate(fresh)]
            plain = [load.run(server, schema=None, streams=1, waves=1, seed=i) for i in range(options.repeats)]
            without = statistics.median(rate.tokens_per_s for rate in free[server.name])
            with_schema = statistics.median(rate.tokens_per_s for rate in held[server.name])
            rows.append(
                {
                    "task": task.name,
                    "server": server.name,
                    "tokens_per_s": round(without, 1),
                    "tokens_per_s_with_schema": round(with_schema, 1),
                    "cost_percent": round(100 * (1 - with_schema / without), 1),
                    "ttft_ms": round(statistics.median(rate.ttft_ms for rate in plain), 2),
                    "ttft_cold_ms": round(statistics.median(rate.ttft_ms for rate in first), 2),
                    "ttft_warm_ms": round(statistics.median(rate.ttft_ms for rate in again), 2),
                }
            )
    return rows


def mask_times(task: Task, options: argparse.Namespace) -> dict[str, object]:
    """Microseconds per mask and per accepted token of an output, and the time to compile the schema."""
    model = Model(str(model_path(task.model, options.model_dir)), vocab_only=True)
    compiler = GrammarCompiler(partial(grammar_vocabulary, Tokenizer(model)))
    compiler.compile(StructuredOutput(StructuredKind.REGEX, "a"))  # prepares the vocabulary
    result: dict[str, object] = {"task": task.name, "n_vocab": model.n_vocab}
    start = time.perf_counter()
    grammar = compiler.compile(StructuredOutput(StructuredKind.JSON_SCHEMA, json.dumps(PERSON)))
    result["compile_us"] = round((time.perf_counter() - start) * 1e6, 1)
    masks, accepts = [], []
    for _ in range(20):
        constraint = grammar.start()
        for token_id in model.tokenize('{"name": "Bob the builder", "age": 40, "city": "Berlin"}', False, False):
            start = time.perf_counter()
            constraint.mask()
            middle = time.perf_counter()
            constraint.accept(token_id)
            accepts.append((time.perf_counter() - middle) * 1e6)
            masks.append((middle - start) * 1e6)
    for name, times in (("mask", masks), ("accept", accepts)):
        result[f"{name}_p50_us"] = round(percentile(times, 50), 1)
        result[f"{name}_p99_us"] = round(percentile(times, 99), 1)
    compiler.close()
    return result


def print_table(rows: list[dict[str, object]]) -> None:
    """Print a Markdown table of rows with equal keys."""
    print("| " + " | ".join(rows[0]) + " |")
    print("| --- " * len(rows[0]) + "|")
    for row in rows:
        print(
            "| " + " | ".join(f"{value:,}" if isinstance(value, float) else str(value) for value in row.values()) + " |"
        )


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", choices=COMMANDS, default=None, help="default: all that are built")
    parser.add_argument("--tasks", nargs="+", choices=[task.name for task in TASKS], default=["json", "worst"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".peers", help="folder of build_peers.sh")
    parser.add_argument("--model-dir", type=Path, default=cache_folder(), help="folder of generated models")
    parser.add_argument("--quick", action="store_true", help="a quarter of the waves")
    options = parser.parse_args(arguments)
    if options.servers is None:
        options.servers = list(SERVERS) if (options.peers / "llama-server").exists() else ["llamafast"]
    return options


def main() -> int:
    """Run, print the tables, then one JSON line."""
    options = parse_options()
    tasks = [task for task in TASKS if task.name in options.tasks]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="llamafast-bench-") as logs:
        try:
            for task in tasks:
                rows += measure(task, options, Path(logs))
        except (PeerError, LoadError) as error:
            print(error, file=sys.stderr)
            return 1
    masks = [mask_times(task, options) for task in tasks]
    print_table(rows)
    print()
    print_table(masks)
    print(json.dumps({"bench": "structured", "streams": STREAMS, "machine": machine(), "rows": rows, "masks": masks}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
