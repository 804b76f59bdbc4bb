"""Measures the prefix cache and the prompt budget: computed tokens, gaps in streams, time to the first token.

usage: python benchmarks/bench_cache.py [--points 1 2 3 4 6] [--models builtin random-248k random-swa] ...
Counts of computed prompt tokens are exact; times are medians. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from agent import TEMPLATE_FIELDS, Conversation, Counter
from bench_serve import machine
from load_client import LoadSpec, Stream, percentile, run_wave, sse_events
from models import REPOSITORY, cache_folder, model_path
from peers import PeerError, Server, Settings

from llamafast._core import Model

Row = dict[str, Any]

PREFIX, OWN, BURST = 1500, 20, 16
NUM_TURNS, NUM_OTHERS, FEW_CELLS = 12, 20, 3072
LONG_PROMPT, STREAMS = 6000, 8
# Lower ids are control tokens and bytes in every model here.
_FIRST_ID, _LAST_ID = 300, 500


def post(server: Server, path: str, body: Row) -> Row:
    """One whole answer. Raises PeerError."""
    data = json.dumps({"model": "bench", "temperature": 0.0, **body}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            answer: Row = json.load(response)
    except OSError as error:
        raise PeerError(f"{server.name}: {path}: {error}") from error
    return answer


def num_computed(answer: Row) -> int | None:
    """Prompt tokens that were not cached, as the server reports; None if it does not report them."""
    if "timings" in answer:
        return int(answer["timings"]["prompt_n"])
    details = answer["usage"].get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return None if cached is None else int(answer["usage"]["prompt_tokens"]) - int(cached)


def total(counts: list[int | None]) -> int | None:
    """The sum of the counts; None if one is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def token_ids(seed: int, number: int) -> list[int]:
    """A prompt that shares no prefix with those of other seeds."""
    return random.Random(seed).choices(range(_FIRST_ID, _LAST_ID), k=number)


def burst(server: Server) -> Row:
    """Point 1: simultaneous requests with a common prefix."""
    prefix = token_ids(1, PREFIX)
    bodies = [{"prompt": prefix + token_ids(100 + i, OWN), "max_tokens": 4} for i in range(BURST)]
    started_s = time.perf_counter()
    with ThreadPoolExecutor(BURST) as pool:
        answers = list(pool.map(lambda body: post(server, "/v1/completions", body), bodies))
    return {
        "computed": total([num_computed(answer) for answer in answers]),
        "at_most": PREFIX + BURST * (OWN + 4),
        "seconds": round(time.perf_counter() - started_s, 2),
    }


def ask(server: Server, conversation: Conversation) -> int | None:
    """Send a conversation. Returns the number of computed prompt tokens."""
    fields = {"chat_template_kwargs": TEMPLATE_FIELDS, "max_tokens": 4}
    return num_computed(post(server, "/v1/chat/completions", {"messages": conversation.messages, **fields}))


def agents(server: Server, counter: Counter) -> list[Row]:
    """Point 2: an agent's turns, then its last turn edited, then dropped; then two agents among others."""
    agent = Conversation(1)
    turns, new = [], []
    for _ in range(NUM_TURNS):
        agent.add_turn()
        new.append(counter.num_new(agent.messages))
        turns.append(ask(server, agent))
    rows: list[Row] = [{"what": f"{NUM_TURNS} turns", "computed": total(turns), "at_most": round(1.1 * sum(new))}]
    agent.edit_last()
    # The call before the result is the last common message. At most a whole turn may be computed.
    rows.append({"what": "last turn edited", "computed": ask(server, agent), "at_most": new[-1]})
    agent.drop_last()
    rows.append({"what": "last turn dropped", "computed": ask(server, agent), "at_most": new[-2]})
    return [*rows, pair(server, counter)]


def pair(server: Server, counter: Counter) -> Row:
    """Two agents, turn by turn, among others with one request each."""
    two = [Conversation(2), Conversation(3)]
    turns, new = [], []
    for turn in range(NUM_TURNS):
        for one in two:
            one.add_turn()
            new.append(counter.num_new(one.messages))
            turns.append(ask(server, one))
        for other in range(turn * NUM_OTHERS // NUM_TURNS, (turn + 1) * NUM_OTHERS // NUM_TURNS):
            ask(server, Conversation(10 + other))
    return {"what": f"two among {NUM_OTHERS}", "computed": total(turns), "at_most": round(1.1 * sum(new))}


def stream_bodies(server: Server, end_ids: list[int], tokens: int) -> list[str]:
    """Requests for streams of this many tokens. Their prompts share no prefix."""
    no_end = {"logit_bias": dict.fromkeys(map(str, end_ids), -100)} if server.name == "example-server" else {}
    fields = {"model": "bench", "stream": True, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **no_end}
    return [json.dumps({**fields, "prompt": token_ids(int(time.time_ns()), 16)}) for _ in range(STREAMS)]


def text_times_s(stream: Stream) -> list[float]:
    """Arrival times of a stream's events with text. Some tokens have none: they are parts of characters."""
    return [ns / 1e9 for ns, data in sse_events(stream) if data != "[DONE]" and json.loads(data)["choices"]]


def gaps(server: Server, end_ids: list[int], tokens: int, prompt: list[int]) -> Row:
    """Point 4: the gaps in streams, first undisturbed, then from a long prompt's arrival to its first token."""

    def run(spec: LoadSpec, streams: list[Stream]) -> None:
        streams += run_wave(spec, spec.waves[0])

    def load() -> tuple[threading.Thread, list[Stream]]:
        streams: list[Stream] = []
        spec = LoadSpec("127.0.0.1", server.port, "/v1/completions", tokens, [stream_bodies(server, end_ids, tokens)])
        thread = threading.Thread(target=run, args=(spec, streams))
        thread.start()
        return thread, streams

    thread, streams = load()
    thread.join()
    every = [text_times_s(stream) for stream in streams]
    steady = [1000 * (b - a) for times in every for a, b in pairwise(times[5:])]
    lasted_s = max(times[-1] for times in every) - min(times[0] for times in every)
    started_s = time.perf_counter()
    thread, streams = load()
    time.sleep(lasted_s * 0.2)
    arrival_s = time.perf_counter()
    post(server, "/v1/completions", {"prompt": prompt, "max_tokens": 1})
    done_s = time.perf_counter()
    thread.join()
    ended_s = time.perf_counter()
    during = [
        1000 * (b - a) for stream in streams for a, b in pairwise(text_times_s(stream)) if b > arrival_s and a < done_s
    ]
    return {
        "steady_p50_ms": percentile(steady, 50),
        "steady_p99_ms": percentile(steady, 99),
        "p50_ms": percentile(during, 50),
        "p99_ms": percentile(during, 99),
        "max_ms": max(during, default=0.0),
        "prompt_s": done_s - arrival_s,
        "total_s": ended_s - started_s,
    }


def first_token(server: Server) -> Row:
    """Point 6: time to the first token after a cached prefix, and after a short prompt."""

    def measure(prompt_of: Callable[[int], list[int]]) -> float:
        times = []
        for i in range(9):
            body = json.dumps({"model": "bench", "stream": True, "max_tokens": 1, "prompt": prompt_of(i)})
            (stream,) = run_wave(LoadSpec("127.0.0.1", server.port, "/v1/completions", 1, [[body]]), [body])
            times.append((next(sse_events(stream))[0] - stream.sent_ns) / 1e6)
        return statistics.median(times)

    prefix = token_ids(7, LONG_PROMPT)
    post(server, "/v1/completions", {"prompt": prefix, "max_tokens": 1})
    cached_ms = measure(lambda i: prefix + token_ids(1000 + i, 4))
    short_ms = measure(lambda i: token_ids(2000 + i, 30))
    return {"cached_ms": cached_ms, "short_ms": short_ms, "ratio": cached_ms / short_ms}


def restart(settings: Settings, folder: Path) -> Row:
    """Point 3: the first turn after a restart, with the earlier states on disk."""
    config = folder / "disk_cache.json"
    disk_cache = {"path": str(folder / "states"), "max_bytes": 2**30, "min_tokens": 64}
    config.write_text(json.dumps({"model": {"path": str(settings.model)}, "disk_cache": disk_cache}))
    agent = Conversation(4)
    for _ in range(4):
        agent.add_turn()
    with Server("llamafast", settings, [str(config)]) as server:
        computed_before = ask(server, agent)
    with Server("llamafast", settings, [str(config)]) as server:
        computed = ask(server, agent)
    return {"computed_before": computed_before, "computed": computed}


def show(title: str, rows: list[Row]) -> None:
    """Print a Markdown table. A dash: the server does not report the value."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for row in rows:
        cells = ["-" if row.get(name) is None else row[name] for name in names]
        print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


class Run:
    """Runs all points. rows: the results, by the point's name."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rows: dict[str, list[Row]] = {}

    def settings(self, name: str, n_seq_max: int, n_ctx: int) -> Settings:
        """The settings for one model."""
        path, options = model_path(name, self.options.model_dir), self.options
        return Settings(path, options.threads, n_ctx, n_seq_max, options.peers.resolve(), self.folder)

    def each(self, point: str, settings: Settings, work: Callable[[Server], Row | list[Row]], **facts: object) -> None:
        """Run one server after the other. A server that fails gets a row with its error."""
        variants = {name: [] for name in self.options.servers} | dict(facts.pop("variants", {}))  # type: ignore[call-overload]
        for name, arguments in variants.items():
            try:
                with Server(name.partition(" ")[0], settings, arguments) as server:
                    found = work(server)
            except PeerError as error:
                print(f"# {point}, {name}: {error}", file=sys.stderr)
                found = {"failed": str(error).splitlines()[0][:80]}
            for row in found if isinstance(found, list) else [found]:
                self.rows.setdefault(point, []).append({"server": name, **facts, **row})
            print(f"# {point}, {name}: {found}", file=sys.stderr)

    def execute(self) -> None:
        """Run the selected points."""
        points, models = self.options.points, self.options.models
        if 1 in points:
            for name in models:
                self.each("1 burst", self.settings(name, BURST, 32768), burst, model=name)
        if 2 in points:
            settings = self.settings("builtin", 8, 65536)
            self.each("2 agent", settings, lambda server: agents(server, Counter(settings.model)))
            few = self.settings("builtin", 8, FEW_CELLS)
            self.each("2 agent, few cells", few, lambda server: pair(server, Counter(few.model)), cells=FEW_CELLS)
        if 3 in points:
            try:
                self.rows["3 restart"] = [restart(self.settings("builtin", 8, 32768), self.folder)]
            except PeerError as error:
                print(f"# point 3 is skipped, this llamafast has no disk cache: {error}", file=sys.stderr)
        if 4 in points:
            for name in models[:2]:
                settings = self.settings(name, STREAMS + 1, 32768)
                vocabulary = Model(str(settings.model), vocab_only=True)
                end_ids = [i for i in range(vocabulary.n_vocab) if vocabulary.is_eog(i)]
                variants = {
                    "llamafast --max-step-ms 0": ["--max-step-ms", "0"],
                    "llamafast --flash-attn": ["--flash-attn"],
                }
                self.each(
                    "4 gaps",
                    settings,
                    partial(gaps, end_ids=end_ids, tokens=self.options.tokens, prompt=token_ids(9, LONG_PROMPT)),
                    model=name,
                    variants=variants,
                )
        if 6 in points:
            for name in models:
                variants = {"llamafast --flash-attn": ["--flash-attn"]}
                self.each("6 first token", self.settings(name, 8, 32768), first_token, model=name, variants=variants)


def main() -> int:
    """Run, print a table for each point, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", type=int, default=[1, 2, 3, 4, 6])
    parser.add_argument("--models", nargs="+", default=["builtin", "random-248k", "random-swa"])
    parser.add_argument("--servers", nargs="+", help="default: all that are built")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=400, help="tokens of each stream while a long prompt is computed")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".peers", help="folder of build_peers.sh")
    parser.add_argument("--model-dir", type=Path, default=cache_folder(), help="folder of generated models")
    parser.add_argument("--quick", action="store_true", help="only the built-in model")
    options = parser.parse_args()
    if options.quick:
        options.models = ["builtin"]
    if options.servers is None:
        built = (options.peers / "llama-server").exists()
        options.servers = ["llamafast", *(["llama-server", "example-server"] if built else [])]
    with tempfile.TemporaryDirectory(prefix="llamafast-bench-") as folder:
        run = Run(options, Path(folder))
        run.execute()
    for point, rows in run.rows.items():
        show(point, rows)
    print(json.dumps({"bench": "cache", "threads": options.threads, "machine": machine(), "points": run.rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
