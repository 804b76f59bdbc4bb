"""Sends the same streamed load to llamafast, llama-server and the example server. Bare decoding is the upper bound.

All servers run at once and are loaded in turn, so that other load on the machine affects all alike. Results are
medians over repeats.
usage: python benchmarks/bench_serve.py [--quick] [--model builtin|random-0.6b|random-248k|FILE] ...
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from load_client import LoadResult, LoadSpec
from models import REPOSITORY, cache_folder, model_path
from peers import COMMANDS, PeerError, Server, Settings, run_roof

from llamafast._core import Model

CLIENT = Path(__file__).with_name("load_client.py")
PROMPT_TOKENS_LIMIT = 64
WARM_UP_TOKENS = 16
ROOF, ROOF_STREAMS = "roof", "roof-no-kvu"
COLUMNS = {
    "tokens_per_s": "tokens/s",
    "ttft_p50_ms": "first token p50 ms",
    "ttft_p99_ms": "p99 ms",
    "gap_p50_ms": "gap p50 ms",
    "gap_p99_ms": "p99 ms",
    "server_us_per_token": "server CPU us/token",
    "client_us_per_token": "client CPU us/token",
    "rss_mib": "RSS MiB",
}
COLORS = ("red", "blue", "green", "white", "black", "yellow", "brown", "pink")
ANIMALS = ("cat", "dog", "fox", "bird", "fish", "horse", "cow", "duck", "frog", "bear", "lion")


@dataclass(frozen=True, slots=True)
class Preset:
    """The default measurement of a model. min_tokens: tokens per measurement, in as many waves as needed."""

    threads: int
    tokens: int
    min_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0


PRESETS = {
    "builtin": Preset(threads=1, tokens=128, min_tokens=4096),
    "random-0.6b": Preset(threads=2, tokens=64, min_tokens=64),
    "random-248k": Preset(threads=1, tokens=64, min_tokens=64, temperature=0.8, top_p=0.95, presence_penalty=1.0),
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of one server with one number of streams. Memory is read at the end of the load."""

    load: LoadResult
    server_us_per_token: float
    rss_mib: float
    peak_mib: float


class Bodies:
    """Request bodies with prompts that differ from the first word on, so that no server can share a prefix."""

    def __init__(self, options: argparse.Namespace, end_ids: list[int]) -> None:
        self._count = 0
        self._fields: dict[str, object] = {
            "model": "bench",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": options.temperature,
            "top_p": options.top_p,
            "presence_penalty": options.presence_penalty,
        }
        if options.top_k is not None:
            self._fields["top_k"] = options.top_k
        self._end_bias = {str(token_id): -100 for token_id in end_ids}

    def wave(self, server: str, streams: int, tokens: int) -> list[str]:
        """Bodies for one wave. The example server does not know ignore_eos, so it gets a bias against end tokens."""
        no_end = {"logit_bias": self._end_bias} if server == "example-server" else {"ignore_eos": True}
        bodies: list[str] = []
        for _ in range(streams):
            prompt = self.prompt(self._count)
            self._count += 1
            bodies.append(json.dumps({**self._fields, **no_end, "prompt": prompt, "max_tokens": tokens}))
        return bodies

    @staticmethod
    def prompt(number: int) -> str:
        """A prompt of under 50 bytes. Adjacent numbers start with different words."""
        animal, color = ANIMALS[number % len(ANIMALS)], COLORS[number % len(COLORS)]
        return f"{animal} {number} is {color}. Tell a long story."


def measure(server: Server, bodies: Bodies, streams: int, tokens: int, waves: int) -> Measurement:
    """Load one server from a separate process. Raises PeerError."""
    spec = LoadSpec(
        host="127.0.0.1",
        port=server.port,
        path="/v1/completions",
        max_tokens=tokens,
        waves=[bodies.wave(server.name, streams, tokens) for _ in range(waves)],
    )
    before = server.cost()
    done = subprocess.run([sys.executable, str(CLIENT)], input=json.dumps(asdict(spec)), capture_output=True, text=True)
    after = server.cost()
    if done.returncode != 0:
        raise PeerError(f"{server.name} with {streams} streams: {done.stderr[-2000:]}")
    load = LoadResult(**json.loads(done.stdout))
    server_us = (after.cpu_s - before.cpu_s) / load.tokens * 1e6
    return Measurement(load, server_us, after.rss_mib, after.peak_mib)


def n_ctx_for(streams: int, tokens: int) -> int:
    """KV cells for all streams, in steps of 128 per stream: enough that none waits or is preempted."""
    return streams * -(-(tokens + PROMPT_TOKENS_LIMIT) // 128) * 128


@dataclass(slots=True)
class Run:
    """One benchmark run: the servers, and the measurements by (server, streams)."""

    options: argparse.Namespace
    settings: Settings
    measured: dict[tuple[str, int], list[Measurement]]
    roofs: dict[tuple[str, int], list[tuple[float, float]]]

    def execute(self) -> None:
        """Start all servers, load them in turn, repeat. Raises PeerError."""
        options = self.options
        vocabulary = Model(str(self.settings.model), vocab_only=True)
        end_ids = [token_id for token_id in range(vocabulary.n_vocab) if vocabulary.is_eog(token_id)]
        bodies = Bodies(options, end_ids)
        num_prompt_tokens = len(vocabulary.tokenize(Bodies.prompt(0), True, True))
        with ExitStack() as stack:
            servers = [stack.enter_context(Server(name, self.settings)) for name in options.servers if name in COMMANDS]
            for server in servers:
                measure(server, bodies, max(options.streams), WARM_UP_TOKENS, 1)
            for repeat in range(options.repeats):
                self._add_roofs(num_prompt_tokens)
                turn = repeat % max(1, len(servers))
                for streams in options.streams:
                    for server in servers[turn:] + servers[:turn]:
                        self._add_load(server, bodies, streams)

    def _add_roofs(self, num_prompt_tokens: int) -> None:
        for unified, name in ((True, ROOF), (False, ROOF_STREAMS)):
            if name in self.options.servers:
                streams, tokens = self.options.streams, self.options.tokens
                roofs = run_roof(self.settings, streams, num_prompt_tokens, tokens, unified=unified)
                for number, roof in roofs.items():
                    self.roofs.setdefault((name, number), []).append(roof)

    def _add_load(self, server: Server, bodies: Bodies, streams: int) -> None:
        waves = max(1, self.options.min_tokens // (streams * self.options.tokens))
        result = measure(server, bodies, streams, self.options.tokens, waves)
        self.measured.setdefault((server.name, streams), []).append(result)
        print(f"# {server.name}, streams {streams}: {result.load.tokens_per_s:,.0f} tokens/s", file=sys.stderr)

    def rows(self) -> list[dict[str, str | int | float]]:
        """One row per server and number of streams: medians over the repeats."""
        rows: list[dict[str, str | int | float]] = []
        for streams in self.options.streams:
            for name in self.options.servers:
                row: dict[str, str | int | float] = {"server": name, "streams": streams}
                if (name, streams) in self.roofs:
                    rates, costs = zip(*self.roofs[name, streams], strict=True)
                    row["tokens_per_s"] = round(statistics.median(rates), 2)
                    row["server_us_per_token"] = round(statistics.median(costs), 2)
                else:
                    row |= median_row(self.measured[name, streams])
                rows.append(row)
        return rows


def median_row(measurements: list[Measurement]) -> dict[str, str | int | float]:
    """The median of every figure over the repeats."""
    flat = [{**asdict(one.load), **asdict(one)} for one in measurements]
    names = [*COLUMNS, "peak_mib"]
    return {name: round(statistics.median(one[name] for one in flat), 2) for name in names}


def ratios(rows: list[dict[str, str | int | float]]) -> dict[str, dict[str, float]]:
    """llamafast's tokens per second divided by those of each other row, e.g. {"llama-server": {"32": 1.7}}."""
    rate = {(row["server"], row["streams"]): float(row["tokens_per_s"]) for row in rows}
    result: dict[str, dict[str, float]] = {}
    for (name, streams), value in rate.items():
        if name != "llamafast" and ("llamafast", streams) in rate:
            result.setdefault(str(name), {})[str(streams)] = round(rate["llamafast", streams] / value, 3)
    return result


def print_table(rows: list[dict[str, str | int | float]]) -> None:
    """Print a Markdown table. A dash: the row has no such figure (the roof is not a server)."""
    print("| streams | server | " + " | ".join(COLUMNS.values()) + " |")
    print("| ---: | --- |" + " ---: |" * len(COLUMNS))
    for row in rows:
        cells = [f"{row[name]:,.{1 if name.endswith('_ms') else 0}f}" if name in row else "-" for name in COLUMNS]
        print(f"| {row['streams']} | {row['server']} | " + " | ".join(cells) + " |")


def machine() -> dict[str, str | int | float]:
    """The machine. load_1min shows whether other programs ran."""
    return {
        "cpus": os.cpu_count() or 0,
        "processor": processor_name(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def processor_name() -> str:
    """The name of the processor, from /proc/cpuinfo; "" if it does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. The preset of the model gives the values of absent options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = [*COMMANDS, ROOF, ROOF_STREAMS]
    parser.add_argument("--model", default="builtin", help="builtin, random-0.6b, random-248k or a GGUF file")
    parser.add_argument("--servers", nargs="+", choices=everyone, default=None, help="default: all that are built")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, help="generated tokens per stream")
    parser.add_argument("--min-tokens", type=int, help="minimum tokens per measurement, in several waves")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--top-k", type=int, help="not sent by default: llama-server then uses 40, the others none")
    parser.add_argument("--presence-penalty", type=float)
    parser.add_argument("--n-ctx", type=int, help="KV cells for all streams together")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / ".peers", help="folder of build_peers.sh")
    parser.add_argument("--model-dir", type=Path, default=cache_folder(), help="folder of generated models")
    parser.add_argument("--quick", action="store_true", help="one repeat, fewer tokens, no second layouts")
    options = parser.parse_args(arguments)
    preset = PRESETS.get(options.model, PRESETS["builtin"])
    for name, value in asdict(preset).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.quick:
        options.repeats, options.min_tokens = 1, options.min_tokens // 2
    if options.servers is None:
        options.servers = default_servers(options)
    options.n_ctx = options.n_ctx or n_ctx_for(max(options.streams), options.tokens)
    return options


def default_servers(options: argparse.Namespace) -> list[str]:
    """The servers to measure: all, a few with --quick, or only llamafast if no peers are built."""
    if not (options.peers / "llama-server").exists():
        print(f"no peers in {options.peers}: llamafast alone; benchmarks/build_peers.sh builds them", file=sys.stderr)
        return ["llamafast"]
    if options.quick:
        return ["llamafast", "llama-server", "example-server", ROOF]
    return [*COMMANDS, ROOF, ROOF_STREAMS]


def main() -> int:
    """Run, print the table, then one JSON line."""
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="llamafast-bench-") as logs:
        settings = Settings(
            model=model_path(options.model, options.model_dir),
            threads=options.threads,
            n_ctx=options.n_ctx,
            n_seq_max=max(options.streams),
            peers=options.peers.resolve(),
            logs=Path(logs),
        )
        run = Run(options, settings, {}, {})
        try:
            run.execute()
        except PeerError as error:
            print(error, file=sys.stderr)
            return 1
    rows = run.rows()
    print_table(rows)
    report = {
        "bench": "serve",
        **{
            name: getattr(options, name) for name in ("model", "n_ctx", "repeats", *asdict(PRESETS["builtin"]), "top_k")
        },
        "machine": machine(),
        "rows": rows,
        "ratios": ratios(rows),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
