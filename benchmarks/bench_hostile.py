"""Measures how long other clients wait while one client sends costly bodies: the longest gaps, per body.

One client streams, a second one asks /health every few milliseconds, and a third process sends the bodies, one after
the other. Gaps are meaningful only on an idle machine. The last line is one JSON object, with the load of the machine
and the gaps without any body.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import peers
from models import BUILT_IN

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.largest_bodies import HUGE, legal

HEALTH_EVERY_S = 0.005
LIMIT_S = 60
STORY = "<|im_start|>user\nTell me a long story.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
NEIGHBOUR = {"prompt": STORY, "max_tokens": 30_000, "ignore_eos": True, "temperature": 0.8, "seed": 1, "stream": True}


def send(port: int, kind: str, name: str, n_vocab: int, n_ctx: int) -> tuple[int, str | None, float]:
    """Send a body: status, the field at fault, and seconds. Runs in a separate process, since making a body is slow."""
    body = (HUGE if kind == "huge" else legal(n_vocab, n_ctx))[name]()
    path = "chat/completions" if b'"messages"' in body[:20] else "completions"
    start = time.perf_counter()
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/{path}", content=body, timeout=LIMIT_S)
    except httpx.TransportError as error:
        return 0, type(error).__name__, time.perf_counter() - start
    seconds = time.perf_counter() - start
    return answer.status_code, (answer.json().get("error") or {}).get("param"), seconds


class Watch:
    """Watches the longest gaps since reset(), in ms."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.stream_ms = self.health_ms = 0.0
        self.last_s = time.perf_counter()

    async def stream(self, client: httpx.AsyncClient) -> None:
        while True:
            async with client.stream("POST", "/v1/completions", json=NEIGHBOUR) as answer:
                self.last_s = time.perf_counter()
                async for _ in answer.aiter_raw():
                    now = time.perf_counter()
                    self.stream_ms = max(self.stream_ms, 1000 * (now - self.last_s))
                    self.last_s = now

    async def health(self, client: httpx.AsyncClient) -> None:
        while True:
            start = time.perf_counter()
            await client.get("/health")
            self.health_ms = max(self.health_ms, 1000 * (time.perf_counter() - start))
            await asyncio.sleep(HEALTH_EVERY_S)


async def run(server: peers.Server, names: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    watch, loop = Watch(), asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=600) as client:
        facts = (await client.get("/v1/models")).json()["data"][0]
        sizes = (facts["meta"]["n_vocab"], facts["max_model_len"])
        tasks = [asyncio.create_task(watch.stream(client)), asyncio.create_task(watch.health(client))]
        with ProcessPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, os.getpid)
            await asyncio.sleep(1)
            watch.reset()
            await asyncio.sleep(3)
            results["nothing"] = {"stream_ms": round(watch.stream_ms, 1), "health_ms": round(watch.health_ms, 1)}
            print(f"| nothing | | | | {watch.stream_ms:.1f} | {watch.health_ms:.1f} | |", flush=True)
            for kind, name in names:
                before = server.cost().rss_mib
                watch.reset()
                status, param, seconds = await loop.run_in_executor(pool, send, server.port, kind, name, *sizes)
                watch.stream_ms = max(watch.stream_ms, 1000 * (time.perf_counter() - watch.last_s))
                result = {
                    "status": status, "param": param, "seconds": round(seconds, 2),
                    "stream_ms": round(watch.stream_ms, 1), "health_ms": round(watch.health_ms, 1),
                    "grown_mib": round(server.cost().rss_mib - before, 1),
                }  # fmt: skip
                results[f"{kind} {name}"] = result
                print(f"| {kind} {name} | " + " | ".join(str(value) for value in result.values()) + " |", flush=True)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only bodies with this text in their kind and name")
    parser.add_argument("--quick", action="store_true", help="every eighth body")
    options = parser.parse_args()
    names = [("legal", name) for name in legal(0, 0)] + [("huge", name) for name in HUGE]
    names = [pair for pair in names if options.only in " ".join(pair)][:: 8 if options.quick else 1]
    print(
        "| body | status | field | s | stream ms | health ms | MiB kept |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as logs:
        settings = peers.Settings(BUILT_IN, 1, 32768, 8, Path(), Path(logs))
        with peers.Server("llamafast", settings) as server:
            gaps = asyncio.run(run(server, names))
    worst = max(gaps, key=lambda name: max(gaps[name]["stream_ms"], gaps[name]["health_ms"]))
    print(json.dumps({"benchmark": "hostile", "load": os.getloadavg(), "worst": {worst: gaps[worst]}, "gaps": gaps}))


if __name__ == "__main__":
    main()
