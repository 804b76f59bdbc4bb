"""Tries a model file before it is loaded: a child process runs it once, and the memory that it needs is checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from llamafast.engine.config import EngineConfig, Group
from llamafast.engine.probe import MemoryNeed, memory_need
from llamafast.errors import ConfigError, ModelLoadError
from llamafast.host.memory import address_space, available_memory

# The child imports from the folders that this process imports from, not from the current folder.
_CHILD = (
    "import json, sys; job = json.loads(sys.stdin.readline()); sys.path[:] = job['sys_path']; "
    "from llamafast.engine.probe import main; main(job)"
)
# Seconds that a probe may take, in addition to the time to read the file from a slow disk.
_MIN_TIMEOUT_S = 120.0
_SLOW_DISK_BYTES_PER_S = 10e6
_PROGRESS_S = 5.0

_HASHED_BYTES = 1 << 20
# Under `ulimit -v`: the address space for the stacks of threads and for large pieces of the allocator.
_ADDRESS_MARGIN = 768 << 20
_SHARD = re.compile(r"(.*)-\d{5}-(of-\d{5}\.gguf)")
# Settings that affect neither the memory of a model nor whether it can compute.
_WITHOUT_EFFECT = (Group.THREADS,)

Report = Callable[[str], None]
Loras = Sequence[tuple[str, float]]


def check_model(path: Path, config: EngineConfig, loras: Loras, *, is_known: bool, report: Report) -> None:
    """Raise ModelLoadError for a file that llama.cpp cannot run, and ConfigError if the memory is too small.

    A child process runs the file once for each configuration. The result is kept in the user's cache folder.
    is_known: the file belongs to the package. It is tried only with kv_overrides or a limit of the address space.
    report: takes lines about the progress.
    """
    # With a limit of the address space llama.cpp can end the process while it loads any file.
    if is_known and not config.kv_overrides and address_space() is None:
        need = memory_need(str(path), config)
        check_memory(path, config, need, report)
        return
    record = _cache_folder() / f"{_key(path, config, loras)}.json"
    cached = _read_need(record)
    if cached is not None:
        check_memory(path, config, cached, report)
        return
    report(f"probe    {path}: new file, settings or version; a child process tries it first")
    with _Child(path, config, loras, report) as child:
        need = MemoryNeed(**child.wait_for("need"))
        check_memory(path, config, need, report)
        child.go_on()
        child.wait_for("done")
    _write_need(record, need)


def check_memory(path: Path, config: EngineConfig, need: MemoryNeed, report: Report) -> None:
    """Raise ConfigError if the context, together with weights that are not mapped, does not fit into memory."""
    is_mapped = config.use_mmap is not False and not config.use_mlock
    room, addresses = available_memory(), address_space()
    wanted = need.context_bytes + (0 if is_mapped else need.weights_bytes)
    if room is not None and wanted > room:
        raise ConfigError(_does_not_fit(path, need, wanted, room, "are available"))
    mapped = need.context_bytes + need.weights_bytes + _ADDRESS_MARGIN
    if addresses is not None and mapped > addresses:
        raise ConfigError(_does_not_fit(path, need, mapped, addresses, "are left under the limit of `ulimit -v`"))
    if room is not None and need.context_bytes + need.weights_bytes > room:
        report(
            f"memory   the weights take {_gib(need.weights_bytes)} and the context {_gib(need.context_bytes)}, of "
            f"{_gib(room)} that are available: weights will be read from the disk again and again"
        )


def _does_not_fit(path: Path, need: MemoryNeed, wanted: int, room: int, where: str) -> str:
    fitting = int(0.98 * (need.n_ctx - (wanted - room) / max(need.bytes_per_token, 1.0))) // 256 * 256
    remedy = f"--n-ctx {fitting} would fit" if fitting >= 256 else "no smaller context would help"
    return f"{path}: with {need.n_ctx} tokens of context it needs {_gib(wanted)}, but {_gib(room)} {where}; {remedy}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / 2**20:,.1f} MiB"


class _Child:
    """The child process that tries a file. Leaving the context kills it."""

    def __init__(self, path: Path, config: EngineConfig, loras: Loras, report: Report) -> None:
        self._path = path
        self._report = report
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        with contextlib.suppress(OSError, AttributeError):
            resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
        size = sum(file.stat().st_size for file in _files(path))
        self._deadline = time.monotonic() + _MIN_TIMEOUT_S + size / _SLOW_DISK_BYTES_PER_S
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        job = {"sys_path": sys.path, "path": str(path), "config": asdict(config), "loras": list(loras)}
        self._write(json.dumps(job))

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def go_on(self) -> None:
        """Let the child load the weights."""
        self._write("go on")

    def wait_for(self, name: str) -> Any:
        """The child's value of `name`. Raises ModelLoadError if the child reports an error, dies, or takes too long."""
        shown = time.monotonic()
        while True:
            try:
                line = self._lines.get(timeout=max(self._deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise ModelLoadError(
                    f"{self._path}: the trial of the file takes too long; --no-model-probe loads it without a trial"
                ) from None
            if not line:
                raise ModelLoadError(f"{self._path}: {self._last_words()}")
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:  # a line that a library prints
                continue
            if "error" in said:
                raise ModelLoadError(said["error"])
            if name in said:
                return said[name]
            if "progress" in said and time.monotonic() - shown > _PROGRESS_S:
                shown = time.monotonic()
                self._report(f"probe    {said['progress']:.0%} loaded")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the child is dead; wait_for() gives the reason
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self, stdout: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # another thread has closed it
            for line in stdout:
                self._lines.put(line)
        self._lines.put("")

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")
        if code == -signal.SIGKILL:
            return "the process that tried it was killed, most likely because memory ran out"
        # Cut the path of the source file: it is a path of the machine that compiled llama.cpp.
        reason = re.sub(r"^\S*/([\w.-]+:\d+: )", r"\1", last)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"llama.cpp cannot run this file; it ended the process {how}: {reason}"


def _key(path: Path, config: EngineConfig, loras: Loras) -> str:
    """A hash of the files (path, size, modification time, content), the settings and the versions."""
    settings = config.values(*(group for group in Group if group not in _WITHOUT_EFFECT))
    files = [_identity(file) for file in [*_files(path), *(Path(lora) for lora, _ in loras)]]
    facts = (version("llamafast"), version("llama-cpp-python"), files, [scale for _, scale in loras], settings)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """The file, or all parts of a split model."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        yield path
    else:
        yield from sorted(path.parent.glob(f"{_escaped(match[1])}-?????-{match[2]}"))


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _identity(path: Path) -> tuple[str, int, int, str]:
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_HASHED_BYTES))
            file.seek(max(stat.st_size - _HASHED_BYTES, 0))
            digest.update(file.read())
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror or error}") from None
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, digest.hexdigest()


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llamafast" / "probes"


def _read_need(record: Path) -> MemoryNeed | None:
    try:
        return MemoryNeed(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_need(record: Path, need: MemoryNeed) -> None:
    """Keep the result for the next start. If the folder cannot be written, the next start probes again."""
    part = record.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(need)))
        part.replace(record)
