"""A cheap streaming load generator: one process, plain sockets, one selector. It parses after the measurement.

It reads one JSON object from stdin (the fields of LoadSpec) and prints one (the fields of LoadResult). While streams
run, each read costs a recv, a clock and an append. HTTP and SSE are parsed later, with the recorded arrival times.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

RECV_BYTES = 1 << 16
SILENCE_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """The load: waves of request bodies (JSON text). The streams of a wave start together."""

    host: str
    port: int
    path: str
    max_tokens: int
    waves: list[list[str]]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The results over all waves. Times in milliseconds. client_us_per_token: CPU time of this process."""

    tokens: int
    events: int
    wall_s: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    client_us_per_token: float


@dataclass(slots=True)
class Stream:
    """One request in flight: its socket, and the received pieces with their times (ns)."""

    sock: socket.socket
    sent_ns: int = 0
    arrivals: list[tuple[int, bytes]] = field(default_factory=list)


class LoadError(Exception):
    """A server refused a request or gave a wrong answer."""


def http_request(spec: LoadSpec, body: str) -> bytes:
    """One HTTP/1.1 POST with `Connection: close`, so that the end of the response needs no parsing."""
    payload = body.encode()
    head = (
        f"POST {spec.path} HTTP/1.1\r\nHost: {spec.host}:{spec.port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def connect(spec: LoadSpec) -> Stream:
    """An open connection with Nagle's algorithm off."""
    sock = socket.create_connection((spec.host, spec.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Stream(sock)


def run_wave(spec: LoadSpec, bodies: list[str]) -> list[Stream]:
    """Send all bodies at once over open connections and read until the server has closed each."""
    streams = [connect(spec) for _ in bodies]
    requests = [http_request(spec, body) for body in bodies]
    clock = time.perf_counter_ns
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.sock, selectors.EVENT_READ, stream)
        for stream, request in zip(streams, requests, strict=True):
            stream.sent_ns = clock()
            stream.sock.sendall(request)
        open_streams = len(streams)
        while open_streams:
            ready = selector.select(SILENCE_LIMIT_S)
            if not ready:
                raise LoadError(f"no data for {SILENCE_LIMIT_S:.0f} s with {open_streams} streams open")
            for key, _ in ready:
                stream = key.data
                data = stream.sock.recv(RECV_BYTES)
                if data:
                    stream.arrivals.append((clock(), data))
                else:
                    selector.unregister(stream.sock)
                    stream.sock.close()
                    open_streams -= 1
    return streams


def body_parts(stream: Stream) -> Iterator[tuple[int, bytes]]:
    """(arrival, payload) of each piece of a response's body, without transfer coding. Raises LoadError unless a 200."""
    arrivals = iter(stream.arrivals)
    arrived_ns, pending = 0, b""
    while b"\r\n\r\n" not in pending:
        arrived_ns, data = next(arrivals, (0, b""))
        if not data:
            raise LoadError(f"the server closed the connection: {pending[:200]!r}")
        pending += data
    head, _, pending = pending.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        rest = b"".join(data for _, data in arrivals)
        raise LoadError(f"{head.splitlines()[0].decode()}: {(pending + rest)[:500].decode(errors='replace')}")
    if b"chunked" not in head.lower():
        yield arrived_ns, pending
        yield from arrivals
        return
    while True:
        size_line, newline, rest = pending.partition(b"\r\n")
        size = int(size_line.split(b";")[0], 16) if newline else -1
        if newline and size == 0:
            return
        if newline and len(rest) >= size + 2:
            yield arrived_ns, rest[:size]
            pending = rest[size + 2 :]
            continue
        arrived_ns, data = next(arrivals, (0, b""))
        if not data:
            raise LoadError("the response ended inside a chunk")
        pending += data


def sse_events(stream: Stream) -> Iterator[tuple[int, str]]:
    """(arrival, data) of each server-sent event; comments are dropped."""
    pending = b""
    for arrived_ns, part in body_parts(stream):
        pending += part
        while b"\n\n" in pending:
            event, _, pending = pending.partition(b"\n\n")
            for line in event.splitlines():
                if line.startswith(b"data: "):
                    yield arrived_ns, line[6:].decode()


def token_times(stream: Stream, max_tokens: int) -> list[int]:
    """Arrival times of the events with text. Raises LoadError unless exactly max_tokens tokens were generated.

    The usage must have that number. For servers without usage the finish reason must be the length.
    """
    times: list[int] = []
    finish_reason: str | None = None
    completion_tokens: int | None = None
    for arrived_ns, data in sse_events(stream):
        if data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise LoadError(f"the server reported {data}")
        usage = chunk.get("usage")
        if usage is not None:
            completion_tokens = usage["completion_tokens"]
        for choice in chunk["choices"]:
            if choice["text"]:
                times.append(arrived_ns)
            finish_reason = choice["finish_reason"] or finish_reason
    if finish_reason != "length" or completion_tokens not in (None, max_tokens):
        raise LoadError(f"asked for {max_tokens} tokens, got {completion_tokens}, finish_reason {finish_reason}")
    if not times:
        raise LoadError("a stream carried no text")
    return times


def percentile(values: list[float], percent: int) -> float:
    """The given percentile of the values; 0 if there are none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def run_load(spec: LoadSpec) -> LoadResult:
    """Run all waves one after the other and sum up. Raises LoadError."""
    cpu_s = wall_s = 0.0
    events = 0
    ttft: list[float] = []
    gaps: list[float] = []
    for bodies in spec.waves:
        cpu_start = time.process_time()
        streams = run_wave(spec, bodies)
        cpu_s += time.process_time() - cpu_start
        ends: list[int] = []
        for stream in streams:
            times = token_times(stream, spec.max_tokens)
            events += len(times)
            ends.append(stream.arrivals[-1][0])
            ttft.append((times[0] - stream.sent_ns) / 1e6)
            gaps.extend((after - before) / 1e6 for before, after in itertools.pairwise(times))
        wall_s += (max(ends) - streams[0].sent_ns) / 1e9
    tokens = spec.max_tokens * sum(map(len, spec.waves))
    return LoadResult(
        tokens=tokens,
        events=events,
        wall_s=wall_s,
        tokens_per_s=tokens / wall_s,
        ttft_p50_ms=percentile(ttft, 50),
        ttft_p99_ms=percentile(ttft, 99),
        gap_p50_ms=percentile(gaps, 50),
        gap_p99_ms=percentile(gaps, 99),
        client_us_per_token=cpu_s / tokens * 1e6,
    )


def main() -> int:
    """Read a LoadSpec from stdin, print a LoadResult."""
    try:
        result = run_load(LoadSpec(**json.load(sys.stdin)))
    except (LoadError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
