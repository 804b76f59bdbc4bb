"""The compared servers as child processes, their cost from /proc, and llama-batched-bench as the upper bound."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

START_LIMIT_S = 180.0
STOP_LIMIT_S = 20.0


class PeerError(Exception):
    """A server or tool is missing, did not start, or failed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that all servers of one run share. n_ctx: KV cells for all sequences together."""

    model: Path
    threads: int
    n_ctx: int
    n_seq_max: int
    peers: Path
    logs: Path

    def tool(self, name: str) -> str:
        """Path of a built peer. Raises PeerError if it is missing."""
        path = self.peers / name
        if not path.exists():
            raise PeerError(f"{path} is missing; get it with benchmarks/build_peers.sh {self.peers}")
        return str(path)


@dataclass(frozen=True, slots=True)
class Cost:
    """The resources of a process: CPU seconds of all threads, resident and peak resident memory in MiB."""

    cpu_s: float
    rss_mib: float
    peak_mib: float


def llama_server(settings: Settings, port: int) -> list[str]:
    """llama-server with the layout of llamafast: one unified KV memory, no copies of idle slots in host memory."""
    return [*llama_server_defaults(settings, port), "-kvu", "--cache-ram", "0"]


def llama_server_defaults(settings: Settings, port: int) -> list[str]:
    """llama-server with its defaults, except for model, threads, context and slots, which must be equal."""
    return [
        *(settings.tool("llama-server"), "-m", str(settings.model), "--host", "127.0.0.1", "--port", str(port)),
        *("-t", str(settings.threads), "-tb", str(settings.threads)),
        *("-c", str(settings.n_ctx), "-np", str(settings.n_seq_max), "--offline"),
    ]


def example_server(settings: Settings, port: int) -> list[str]:
    """The example server of llama-cpp-python. store_logits is off, which is faster and used in its shipped configs."""
    program = settings.tool("example_server.py")
    config = settings.logs / "example_server.json"
    model = {
        "path": str(settings.model),
        "alias": "bench",
        "n_ctx": settings.n_ctx,
        "n_seq_max": settings.n_seq_max,
        "threads": settings.threads,
        "threads_batch": settings.threads,
        "kv_unified": True,
        "store_logits": False,
    }
    config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": model}))
    return [sys.executable, program, "-C", str(config)]


def llamafast(settings: Settings, port: int) -> list[str]:
    """The server of this project."""
    return [
        *(sys.executable, "-m", "llamafast", "serve", "--model", str(settings.model), "--host", "127.0.0.1"),
        *("--port", str(port), "--alias", "bench", "--threads", str(settings.threads)),
        *("--n-ctx", str(settings.n_ctx), "--n-seq-max", str(settings.n_seq_max)),
    ]


COMMANDS: dict[str, Callable[[Settings, int], list[str]]] = {
    "llamafast": llamafast,
    "llama-server": llama_server,
    "llama-server-defaults": llama_server_defaults,
    "example-server": example_server,
}


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A running server; a context manager that starts it, waits until it answers, and ends it."""

    def __init__(self, name: str, settings: Settings, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self.port = free_port()
        self.log = settings.logs / f"{name}.log"
        self._command = [*COMMANDS[name](settings, self.port), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        """Start the server. Raises PeerError with the end of its log if it does not start."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.log.parent
            )
        waited_s = 0.0
        while not self._answers():
            try:
                self._process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                waited_s += 0.1
            if self._process.returncode is not None or waited_s > START_LIMIT_S:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.__exit__()
                raise PeerError(f"{' '.join(self._command)} did not start:\n{tail}")
        return self

    def __exit__(self, *_: object) -> None:
        """End the process; kill it if it does not react."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cost(self) -> Cost:
        """The resources used so far; zeros if /proc does not exist."""
        if self._process is None:
            raise PeerError(f"{self.name} is not running")
        return process_cost(self._process.pid)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def process_cost(pid: int) -> Cost:
    """The resources of one process, from /proc/PID; zeros if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return Cost(0.0, 0.0, 0.0)
    user_ticks, system_ticks = stat.rpartition(")")[2].split()[11:13]
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    return Cost(
        cpu_s=(int(user_ticks) + int(system_ticks)) / os.sysconf("SC_CLK_TCK"),
        rss_mib=int(sizes["VmRSS"].split()[0]) / 1024,
        peak_mib=int(sizes["VmHWM"].split()[0]) / 1024,
    )


def run_roof(
    settings: Settings, streams: list[int], prompt_tokens: int, tokens: int, *, unified: bool
) -> dict[int, tuple[float, float]]:
    """Run llama-batched-bench: decoding without sampling, text and HTTP. Raises PeerError.

    Returns by number of sequences: generated tokens per second, and microseconds of CPU per generated token (wall time
    times threads, since decoding uses all of them). Both include the time of the prompts, but not the loading.
    """
    command = [
        *(settings.tool("llama-batched-bench"), "-m", str(settings.model), "-c", str(settings.n_ctx)),
        *("-t", str(settings.threads), "-tb", str(settings.threads), "--offline"),
        *("-npp", str(prompt_tokens), "-ntg", str(tokens), "-npl", ",".join(map(str, streams))),
        *("-kvu" if unified else "-no-kvu", "--output-format", "jsonl"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or len(rows) != len(streams):
        raise PeerError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    seconds = {row["pl"]: row["t"] / (row["pl"] * row["tg"]) for row in rows}
    return {number: (1 / per_token, per_token * settings.threads * 1e6) for number, per_token in seconds.items()}
