"""The sampling kernels: CPU ns per row, as a multiple of a plain max of the row, against numpy and llama.cpp's chain.

usage: python benchmarks/bench_kernels.py [--quick]
The last two columns say how many times our time numpy and llama.cpp take. Of llama.cpp only llama_sampler_apply counts;
filling its candidates from the row, which it needs too, does not. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from llamafast import _kernels

Row = npt.NDArray[np.float32]
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
N_DRAWS = 16  # per timed call: one draw of _kernels.draw also pays for its scratch memory


@dataclass(frozen=True)
class Case:
    """One thing to sample: our call (worth `rows` rows), numpy's, and the stages of llama.cpp's chain."""

    name: str
    ours: Callable[[Row], object]
    numpy: Callable[[Row], object]
    chain: tuple[Callable[[int], lib.llama_sampler_p], ...] = ()
    rows: int = 1
    seen: list[int] = field(default_factory=list)


def numpy_draw(row: Row, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> int:
    """The usual way: sort only when a filter needs it."""
    ids = np.argpartition(row, -top_k)[-top_k:] if top_k else np.arange(len(row))
    logits = row[ids]
    if top_p < 1:
        order = np.argsort(-logits)
        ids, logits = ids[order], logits[order]
        p = np.exp(logits - logits[0])
        cumulative = np.cumsum(p)
        n_kept = np.searchsorted(cumulative, top_p * cumulative[-1]) + 1
        ids, logits = ids[:n_kept], logits[:n_kept]
    if min_p > 0:
        kept = logits >= logits.max() + np.log(min_p)
        ids, logits = ids[kept], logits[kept]
    cumulative = np.cumsum(np.exp((logits - logits.max()) / temperature))
    return int(ids[np.searchsorted(cumulative, np.random.random() * cumulative[-1])])


def draw_case(name: str, temperature: float, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Case:
    chain: list[Callable[[int], lib.llama_sampler_p]] = []
    if top_k:
        chain.append(lambda _n: lib.llama_sampler_init_top_k(top_k))
    if top_p < 1:
        chain.append(lambda _n: lib.llama_sampler_init_top_p(top_p, 0))
    if min_p > 0:
        chain.append(lambda _n: lib.llama_sampler_init_min_p(min_p, 0))
    seeds = itertools.count()  # few draws of one seed are no average
    chain += [lambda _n: lib.llama_sampler_init_temp(temperature), lambda _n: lib.llama_sampler_init_dist(1)]
    return Case(
        name,
        lambda row: _kernels.draw(
            row, N_DRAWS, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=next(seeds)
        ),
        lambda row: numpy_draw(row, temperature, top_k, top_p, min_p),
        tuple(chain),
        N_DRAWS,
    )


def numpy_penalize(row: Row, ids: npt.NDArray[np.int32], counts: npt.NDArray[np.int32]) -> None:
    """Gently: it is timed on one row again and again, which must stay an ordinary row."""
    seen = row[ids]
    row[ids] = np.where(seen > 0, seen / 1.000001, seen * 1.000001) - (counts * 1e-6 + 1e-6)


def numpy_logsumexp(row: Row) -> float:
    top = row.max()
    return float(top + np.log(np.exp(row - top).sum()))


def numpy_top_n(row: Row, k: int) -> list[int]:
    best = np.argpartition(row, -k)[-k:]
    return [int(i) for i in best[np.argsort(-row[best])]]


def cases() -> list[Case]:
    ids = np.arange(0, 64 * 31, 31, dtype=np.int32)
    counts = np.ones(64, np.int32)
    return [
        Case("argmax", _kernels.argmax, np.argmax, (lambda _n: lib.llama_sampler_init_greedy(),)),
        Case("logsumexp", _kernels.logsumexp, numpy_logsumexp),
        Case("top_n 20", lambda row: _kernels.top_n(row, 20), lambda row: numpy_top_n(row, 20)),
        Case(
            "penalize 64 ids",
            lambda row: _kernels.penalize(row, ids, counts, repetition=1.000001, frequency=1e-6, presence=1e-6),
            lambda row: numpy_penalize(row, ids, counts),
            (lambda n: lib.llama_sampler_init_penalties(n, 64, 1.1, 0.1, 0.1),),
            seen=ids.tolist(),
        ),
        draw_case("temperature 0.8", 0.8),
        draw_case("temperature 1", 1.0),
        draw_case("top_k 40", 0.8, top_k=40),
        draw_case("top_k 40, top_p .95, min_p .05", 0.8, top_k=40, top_p=0.95, min_p=0.05),
        draw_case("min_p .05", 0.8, min_p=0.05),
        draw_case("top_p .95", 0.8, top_p=0.95),
        draw_case("top_p .95, temperature 1", 1.0, top_p=0.95),
        draw_case("top_p .3", 0.8, top_p=0.3),
        draw_case("top_k 1000", 0.8, top_k=1000),
    ]


def make_row(shape: str, n_vocab: int) -> Row:
    """flat: like random weights, almost all tokens matter. peaked: like a trained model, twenty tokens stand out."""
    rng = np.random.default_rng(n_vocab)
    if shape == "flat":
        return rng.normal(0, 1, n_vocab).astype(np.float32)
    row = rng.normal(0, 2.5, n_vocab)
    row[rng.choice(n_vocab, 20, replace=False)] += rng.normal(14, 2, 20)
    return row.astype(np.float32)


def ns_per_row(call: Callable[[Row], object], row: Row, rows: int, seconds: float) -> float:
    """The median over repeated calls on a cached row; CPU time, so that a busy machine matters less."""
    call(row)
    times: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.thread_time_ns()
        call(row)
        times.append(time.thread_time_ns() - start)
    return float(np.median(times)) / rows


def ns_llama_cpp(case: Case, row: Row, seconds: float) -> float:
    """The median time of llama_sampler_apply on fresh candidates."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for stage in case.chain:
        lib.llama_sampler_chain_add(chain, stage(len(row)))
    for token_id in case.seen:
        lib.llama_sampler_accept(chain, token_id)
    fresh = np.zeros(len(row), CANDIDATE)
    fresh["id"] = np.arange(len(row))
    fresh["logit"] = row
    work = fresh.copy()
    data = ctypes.cast(work.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    times: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        np.copyto(work, fresh)
        candidates = lib.llama_token_data_array(data, len(row), -1, False)
        start = time.thread_time_ns()
        lib.llama_sampler_apply(chain, ctypes.byref(candidates))
        times.append(time.thread_time_ns() - start)
    lib.llama_sampler_free(chain)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the sampling kernels.")
    parser.add_argument("--quick", action="store_true", help="short measurements, V = 32k and 152k only")
    quick = parser.parse_args().quick
    seconds = 0.05 if quick else 0.3
    results = []
    print("| V | row | kernel | ns/row | x max | numpy | llama.cpp |\n| ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for n_vocab in (32_000, 151_936) if quick else (32_000, 151_936, 248_320):
        for shape in ("flat", "peaked"):
            plain_max = ns_per_row(np.max, make_row(shape, n_vocab), 1, seconds)
            for case in cases():
                ours = ns_per_row(case.ours, make_row(shape, n_vocab), case.rows, seconds)
                theirs = ns_per_row(case.numpy, make_row(shape, n_vocab), 1, seconds)
                chain = ns_llama_cpp(case, make_row(shape, n_vocab), seconds) if case.chain else None
                result: dict[str, str | float | None] = {
                    "n_vocab": n_vocab,
                    "row": shape,
                    "kernel": case.name,
                    "ns_per_row": round(ours),
                    "times_max": round(ours / plain_max, 2),
                    "numpy_ratio": round(theirs / ours, 1),
                    "llama_cpp_ratio": round(chain / ours, 1) if chain else None,
                }
                results.append(result)
                print(
                    "|", " | ".join("-" if value is None else str(value) for value in result.values()), "|", flush=True
                )
    print(json.dumps({"benchmark": "kernels", "load_average": os.getloadavg()[0], "results": results}))


if __name__ == "__main__":
    main()
