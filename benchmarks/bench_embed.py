"""Measures embeddings of many clients at once, without HTTP: tokens per second and the wait of single queries.

usage: python benchmarks/bench_embed.py [--quick] [--threads N]
`roof` is a loop that encodes full packs of the same inputs, one after another. `ratio` is the speed of the clients
divided by the roof's; both are measured in turn, and the ratio is the median of the rounds. Inputs have 8, 64 and 256
tokens in equal numbers.
Query: one client sends an input of 8 tokens, again and again, while another one has a request of thousands of inputs.
`p99_calls` is the 99th percentile of its wait, in mean times of a full call.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from array import array
from pathlib import Path

from models import cache_folder, model_path

from llamafast.engine.async_encoder import AsyncEncoder
from llamafast.engine.config import EngineConfig
from llamafast.engine.embedding import EmbeddingOutput, EmbeddingRequest
from llamafast.engine.encoder import Encoder

LENGTHS = (8, 64, 256)
N_VOCAB = 31


def inputs(number: int, seed: int, lengths: tuple[int, ...] = LENGTHS) -> list[array[int]]:
    """Random inputs, [CLS] and [SEP] included."""
    draw = random.Random(seed)
    return [
        array("i", [2, *(draw.randrange(5, N_VOCAB) for _ in range(lengths[i % len(lengths)] - 2)), 3])
        for i in range(number)
    ]


def roof(encoder: Encoder, number: int) -> float:
    """Tokens per second of one request with all inputs."""
    request = EmbeddingRequest("roof", tuple(inputs(number, 0)))
    encoder.add(encoder.prepare(request))
    start = time.perf_counter()
    while encoder.has_work:
        encoder.step()
    return request.num_tokens / (time.perf_counter() - start)


async def embed(engine: AsyncEncoder, name: str, given: list[array[int]]) -> list[EmbeddingOutput]:
    stream = engine.submit(await engine.prepare(EmbeddingRequest(name, tuple(given))))
    return [output async for outputs in stream for output in outputs]


async def clients(engine: AsyncEncoder, num_clients: int, batch: int, number: int) -> float:
    """Tokens per second of clients that send request after request, `number` inputs in all."""
    num_tokens = 0

    async def client(index: int) -> None:
        nonlocal num_tokens
        for k in range(max(1, number // (num_clients * batch))):
            given = inputs(batch, 1000 * index + k, LENGTHS[(index + k) % 3 :] + LENGTHS[: (index + k) % 3])
            await embed(engine, f"{index}-{k}", given)
            num_tokens += sum(map(len, given))

    start = time.perf_counter()
    await asyncio.gather(*(client(index) for index in range(num_clients)))
    return num_tokens / (time.perf_counter() - start)


async def query_waits(engine: AsyncEncoder, num_bulk: int) -> tuple[list[float], float]:
    """Seconds that each query took while a bulk request ran, and the mean seconds of a call."""
    steps, start = engine.stats.steps, time.perf_counter()
    bulk = asyncio.create_task(embed(engine, "bulk", inputs(num_bulk, 5, (64,))))
    await asyncio.sleep(0)
    waits: list[float] = []
    while not bulk.done():
        sent = time.perf_counter()
        await embed(engine, f"query-{len(waits)}", inputs(1, len(waits), (8,)))
        waits.append(time.perf_counter() - sent)
    return waits, (time.perf_counter() - start) / max(1, engine.stats.steps - steps)


async def measure(path: Path, config: EngineConfig, number: int, rounds: int) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    engine = AsyncEncoder(Encoder(str(path), config))
    await engine.start()
    with Encoder(str(path), config) as plain:
        roof(plain, 8)
        for num_clients, batch in ((1, 1), (1, 64), (8, 1), (8, 8), (64, 1)):
            pairs = []
            for _ in range(rounds):
                pairs.append((await clients(engine, num_clients, batch, number), roof(plain, number)))
            row: dict[str, object] = {
                "clients": num_clients,
                "batch": batch,
                "tokens_per_s": round(statistics.median(speed for speed, _ in pairs)),
                "ratio": round(statistics.median(speed / best for speed, best in pairs), 3),
            }
            results.append(row)
            print("|", " | ".join(map(str, row.values())), "|", flush=True)
    waits, call_s = await query_waits(engine, 4 * number)
    await engine.stop(5)
    waits.sort()
    calls = round(waits[int(0.99 * (len(waits) - 1))] / call_s, 2)
    print(f"\np99 of {len(waits)} queries during a bulk request: {calls} calls")
    return [*results, {"queries": len(waits), "p99_calls": calls}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures embeddings.")
    parser.add_argument("--quick", action="store_true", help="a small model and few inputs")
    parser.add_argument("--threads", type=int, default=0, help="threads that compute; 0: as the server chooses")
    options = parser.parse_args()
    path = model_path("random-bert-small" if options.quick else "random-bert", cache_folder())
    config = EngineConfig(n_ctx=512, n_seq_max=64, threads=options.threads)
    print("| clients | batch | tokens/s | ratio to the roof |\n| ---: | ---: | ---: | ---: |")
    number, rounds = (64, 3) if options.quick else (384, 5)
    results = asyncio.run(measure(path, config, number, rounds))
    print(json.dumps({"benchmark": "embed", "load_average": os.getloadavg()[0], "results": results}))


if __name__ == "__main__":
    main()
