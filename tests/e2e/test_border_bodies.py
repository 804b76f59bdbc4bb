"""Unusual bodies: each gets an answer or a 4xx, the server survives, and other streams continue."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

import httpx
import pytest

from tests.e2e.border_bodies import pairs, singles
from tests.e2e.conftest import Server

NUM_WORKERS = 4
NUM_BODIES = int(os.environ.get("LLAMAFAST_NUM_BODIES", "50000"))
MAX_GAP_MS = float(os.environ.get("LLAMAFAST_MAX_GAP_MS", "250"))
# The client leaves an answer that has no end.
PATIENCE_S = 20.0


class Exchange:
    """A simple connection that sends bodies and reads whole answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, body) of the answer; status 0 if it did not end in time."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        try:
            return await asyncio.wait_for(self._answer(), PATIENCE_S)
        except asyncio.TimeoutError:
            self.close()
            return 0, b""

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" in head:
            parts = []
            while size := int(await self._reader.readline(), 16):
                parts.append(await self._reader.readexactly(size))
                await self._reader.readline()
            await self._reader.readline()
            content = b"".join(parts)
        else:
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            content = await self._reader.readexactly(int(length))
        if b"connection: close" in head:
            self.close()
        return status, content

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def fault(path: str, body: bytes, status: int, content: bytes) -> str | None:
    """The fault of an answer; None if it has none."""
    where = f"{path} {body[:300]!r}: {status} {content[:300]!r}"
    if status == 0:
        return None
    if status == 200:
        is_stream = content.startswith((b"data: ", b": "))
        return f"an error in a stream: {where}" if is_stream and b'"server_error"' in content else None
    if not 400 <= status < 500:
        return where
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError):
        return f"no error object: {where}"
    return None if set(error) == {"message", "type", "param", "code"} and error["message"] else f"its shape: {where}"


async def send_all(port: int, bodies: list[tuple[str, bytes]]) -> list[str]:
    """Send the bodies over a few connections at once. Returns the faults."""
    faults: list[str] = []
    waiting = iter(bodies)

    async def work() -> None:
        exchange = Exchange(port)
        for path, body in waiting:
            try:
                found = fault(path, body, *await exchange.post(path, body))
            except (OSError, asyncio.IncompleteReadError) as error:
                found = f"the connection broke ({error!r}): {path} {body[:300]!r}"
                exchange.close()
            if found is not None:
                faults.append(found)
        exchange.close()

    await asyncio.gather(*(work() for _ in range(NUM_WORKERS)))
    return faults


async def watch(port: int, gaps: list[float], done: asyncio.Event) -> None:
    """Read one stream after the other, as another client does. Returns the gaps between the pieces, in ms."""
    request = {"prompt": "Count:", "max_tokens": 400, "ignore_eos": True, "stream": True, "priority": -1}
    async with httpx.AsyncClient(timeout=60) as client:
        while not done.is_set():
            async with client.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=request) as answer:
                last = None
                async for _ in answer.aiter_raw():
                    now = time.perf_counter()
                    if last is not None:
                        gaps.append((now - last) * 1000)
                    last = now


async def attack(port: int, bodies: list[tuple[str, bytes]], gaps: list[float]) -> list[str]:
    done = asyncio.Event()
    neighbour = asyncio.create_task(watch(port, gaps, done))
    faults = await send_all(port, bodies)
    done.set()
    await neighbour
    return faults


def test_sample_of_hostile_bodies_is_answered_or_refused(server, next_request_is_answered):
    drawn = random.Random(7).sample(list(singles()), 250) + list(pairs(100, seed=7))
    assert asyncio.run(send_all(server.port, drawn)) == []


@pytest.mark.hostile
def test_every_hostile_body_is_answered_or_refused_and_no_neighbour_waits():
    alone = list(singles())
    random.Random(1).shuffle(alone)
    seed = int(os.environ.get("LLAMAFAST_SEED", "1"))
    bodies = (alone + list(pairs(max(0, NUM_BODIES - len(alone)), seed)))[:NUM_BODIES]
    gaps: list[float] = []
    with Server("--threads", "1", "--max-output-tokens", "400") as server:
        faults = []
        for i in range(0, len(bodies), 5000):
            faults += asyncio.run(attack(server.port, bodies[i : i + 5000], gaps))
            print(f"{len(faults)} faults, largest gap {max(gaps):.0f} ms, {server.resident_bytes() / 2**20:.0f} MiB")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.stop() == 0
    assert faults == []
    assert max(gaps) <= MAX_GAP_MS
