"""Sends thousands of short requests, some cancelled, and compares the memory at the end with that at the beginning.

The server runs with LLAMAFAST_DEBUG=1, so it checks slots and cells when it is idle, and ends if they are inconsistent.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import httpx
import peers
from models import BUILT_IN

WARM_UP = 500
PROMPTS = [
    "Hello!",
    "What is the capital of France?",
    "Count to five.",
    "Write a short story about a fox.",
    "2 + 3 = ?",
]


async def request_once(client: httpx.AsyncClient, rng: random.Random, number: int, counts: Counter[str]) -> None:
    body = {
        "prompt": f"<|im_start|>user\n{rng.choice(PROMPTS)} {number}<|im_end|>\n<|im_start|>assistant\n",
        "max_tokens": rng.randint(1, 24),
        "temperature": rng.choice([0.0, 1.0]),
        "stream": rng.random() < 0.5,
        "n": rng.choice([1, 1, 1, 2]),
        "stop": rng.choice([None, ["the"], ["."]]),
    }
    if rng.random() < 0.1:
        try:
            await asyncio.wait_for(client.post("/v1/completions", json=body), rng.random() * 0.05)
            counts["whole"] += 1
        except asyncio.TimeoutError:
            counts["cancelled"] += 1
    elif body["stream"]:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        counts["streamed" if lines[-1] == "data: [DONE]" else "failed"] += 1
    else:
        answer = await client.post("/v1/completions", json=body)
        counts["whole" if answer.status_code == 200 else "failed"] += 1


async def run(server: peers.Server, num_requests: int, concurrency: int) -> tuple[Counter[str], list[float]]:
    """Counts of the results, and the resident MiB after each WARM_UP requests."""
    rng, counts, resident = random.Random(1), Counter[str](), list[float]()
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", limits=limits, timeout=120) as client:
        numbers = iter(range(num_requests))

        async def worker() -> None:
            for number in numbers:
                if number and number % WARM_UP == 0:
                    resident.append(server.cost().rss_mib)
                await request_once(client, rng, number, counts)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        for _ in range(100):
            metrics = (await client.get("/metrics")).text
            if "vllm:num_requests_running{" in metrics and running(metrics) == 0:
                break
            await asyncio.sleep(0.05)
        resident.append(server.cost().rss_mib)
        counts["ready"] = int((await client.get("/ready")).status_code == 200)
        counts["still_running"] = running(metrics)
    return counts, resident


def running(metrics: str) -> int:
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--model", type=Path, default=None, help="a GGUF file; the built-in model if not given")
    parser.add_argument("--quick", action="store_true", help="1,500 requests")
    options = parser.parse_args()
    num_requests = 1500 if options.quick else options.requests
    os.environ["LLAMAFAST_DEBUG"] = "1"
    with tempfile.TemporaryDirectory() as logs:
        settings = peers.Settings(options.model or BUILT_IN, 1, 16384, 32, Path(), Path(logs))
        with peers.Server("llamafast", settings) as server:
            counts, resident = asyncio.run(run(server, num_requests, options.concurrency))
    growth = resident[-1] / resident[0] - 1
    print(f"resident MiB after each {WARM_UP}: {[round(value, 1) for value in resident]}")
    result = {"benchmark": "soak", **counts, "resident_mib_first": resident[0], "resident_mib_last": resident[-1],
              "growth": round(growth, 4)}  # fmt: skip
    print(json.dumps(result))
    return 0 if growth <= 0.05 and counts["ready"] and not counts["failed"] and not counts["still_running"] else 1


if __name__ == "__main__":
    sys.exit(main())
