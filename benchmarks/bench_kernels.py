"""The sampling kernels: CPU time per row, as a multiple of a plain max of the row, against numpy and llama.cpp's chain.

usage: python benchmarks/bench_kernels.py [--quick]
The last columns give the time of numpy and llama.cpp as a multiple of ours. llama.cpp's chain works on candidate
structs, which its callers fill from the logits: `apply` is llama_sampler_apply alone, `row` includes the filling.
Draws go through the Sampler, which adds penalties and bans to the row and removes them again. Needs a C++ compiler.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

import llamafast
from llamafast import _kernels
from llamafast._sampling import DryBreakers, Sampler

Row = npt.NDArray[np.float32]
Stage = Callable[[int], int]  # n_vocab -> llama_sampler*
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
N_DRAWS = 16  # per timed call, which also includes the allocation of scratch memory
MODEL_PATH = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
SEEN = array("i", range(0, 64 * 31, 31))  # the tokens that the penalties apply to
ONCE = array("i", [1] * len(SEEN))
HISTORY = array("i", np.random.default_rng(0).integers(0, 200, 2000).tolist())  # the history for DRY


@dataclass(frozen=True)
class Case:
    """One case: our call on a row (it counts as `rows` rows), numpy's call, and the stages of llama.cpp."""

    name: str
    ours: Callable[[int], Callable[[Row], object]]
    chain: tuple[Stage, ...] = ()
    numpy: Callable[[Row], object] | None = None
    rows: int = 1
    seen: list[int] = field(default_factory=list)


def kernel(call: Callable[[Row], object]) -> Callable[[int], Callable[[Row], object]]:
    return lambda _n: call


def drawing(seen: array[int] | None = None, **settings) -> Callable[[int], Callable[[Row], object]]:
    def make(n_vocab: int) -> Callable[[Row], object]:
        own = {**settings, "dry_breakers": DryBreakers(n_vocab, [])} if "dry_multiplier" in settings else settings
        sampler = Sampler(n_vocab, seed=1, **own)
        if seen is not None:
            sampler.prime(seen)
        positions = itertools.count(0, N_DRAWS)
        return lambda row: sampler.draw(row, None, N_DRAWS, next(positions))

    return make


def draw_case(name: str, stages: tuple[Stage, ...] = (), seen: array[int] | None = None, **settings) -> Case:
    """A draw with these settings. stages: llama.cpp's; by default they are made from the settings."""
    chain = list(stages)
    if top_k := settings.get("top_k"):
        chain.append(lambda _n: lib.llama_sampler_init_top_k(top_k))
    if top_p := settings.get("top_p"):
        chain.append(lambda _n: lib.llama_sampler_init_top_p(top_p, 0))
    if min_p := settings.get("min_p"):
        chain.append(lambda _n: lib.llama_sampler_init_min_p(min_p, 0))
    temperature = settings.setdefault("temperature", 0.8)
    if temperature == 0:
        chain.append(lambda _n: lib.llama_sampler_init_greedy())
    elif "mirostat" in settings:
        chain.insert(0, lambda _n: lib.llama_sampler_init_temp(temperature))
    elif "dynatemp_range" in settings:
        chain += [lambda _n: lib.llama_sampler_init_temp_ext(temperature, settings["dynatemp_range"], 1.0)]
        chain += [lambda _n: lib.llama_sampler_init_dist(1)]
    else:
        chain += [lambda _n: lib.llama_sampler_init_temp(temperature), lambda _n: lib.llama_sampler_init_dist(1)]
    return Case(
        name,
        drawing(seen, **settings),
        tuple(chain),
        numpy_draw(settings) if settings.keys() <= {"temperature", "top_k", "top_p", "min_p"} else None,
        N_DRAWS,
        list(seen or ()),
    )


def numpy_draw(settings: dict[str, float]) -> Callable[[Row], object]:
    """The usual numpy code, which sorts only if a filter needs it."""
    temperature, top_k = settings["temperature"], int(settings.get("top_k", 0))
    top_p, min_p = settings.get("top_p", 1.0), settings.get("min_p", 0.0)

    def draw(row: Row) -> int:
        if temperature == 0:
            return int(np.argmax(row))
        ids = np.argpartition(row, -top_k)[-top_k:] if top_k else np.arange(len(row))
        logits = row[ids]
        if top_p < 1:
            order = np.argsort(-logits)
            ids, logits = ids[order], logits[order]
            cumulative = np.cumsum(np.exp(logits - logits[0]))
            n_kept = np.searchsorted(cumulative, top_p * cumulative[-1]) + 1
            ids, logits = ids[:n_kept], logits[:n_kept]
        if min_p > 0:
            kept = logits >= logits.max() + np.log(min_p)
            ids, logits = ids[kept], logits[kept]
        cumulative = np.cumsum(np.exp((logits - logits.max()) / temperature))
        return int(ids[np.searchsorted(cumulative, np.random.random() * cumulative[-1])])

    return draw


def penalties(n_vocab: int) -> int:
    return lib.llama_sampler_init_penalties(n_vocab, len(SEEN), 1.1, 0.1, 0.1)


def numpy_penalize(row: Row) -> None:
    """With weak penalties: the same row is used again and again and must stay an ordinary row."""
    ids = np.asarray(SEEN)
    seen = row[ids]
    row[ids] = np.where(seen > 0, seen / 1.000001, seen * 1.000001) - (1e-6 + 1e-6)


def penalize(row: Row) -> None:
    _kernels.penalize(row, SEEN, ONCE, repetition=1.000001, frequency=1e-6, presence=1e-6)


def numpy_logsumexp(row: Row) -> float:
    top = row.max()
    return float(top + np.log(np.exp(row - top).sum()))


def numpy_top_n(row: Row) -> list[int]:
    best = np.argpartition(row, -20)[-20:]
    return [int(i) for i in best[np.argsort(-row[best])]]


def half_allowed(n_vocab: int) -> Callable[[Row], object]:
    mask = np.random.default_rng(1).integers(0, 2**32, (n_vocab + 31) // 32, dtype=np.uint32)
    sampler, positions = Sampler(n_vocab, temperature=0.8, seed=1), itertools.count(0, N_DRAWS)
    return lambda row: sampler.draw(row, mask, N_DRAWS, next(positions))


def usual_cases() -> list[Case]:
    chain = {"top_k": 40, "top_p": 0.95, "min_p": 0.05}
    punish = {"repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1}
    return [
        draw_case("greedy", temperature=0.0),
        draw_case("top_k 40, top_p .95, min_p .05", **chain),
        draw_case("temperature .8", temperature=0.8),
        draw_case("temperature 1", temperature=1.0),
        draw_case("penalties, greedy", (penalties,), SEEN, temperature=0.0, **punish),
        draw_case("penalties, top_k 40, top_p .95, min_p .05", (penalties,), SEEN, **chain, **punish),
        draw_case("top_p .95", top_p=0.95),
        draw_case("top_p .95, temperature 1", top_p=0.95, temperature=1.0),
        draw_case("top_p .3", top_p=0.3),
        draw_case("min_p .05", min_p=0.05),
        draw_case("top_k 1000", top_k=1000),
        Case("penalties of 64 ids alone", kernel(penalize), (penalties,), numpy_penalize, seen=list(SEEN)),
        Case("logsumexp", kernel(_kernels.logsumexp), (), numpy_logsumexp),
        Case("top_n 20", kernel(lambda row: _kernels.top_n(row, 20)), (), numpy_top_n),
    ]


def rarer_cases(vocab: int) -> list[Case]:
    dry = {"dry_multiplier": 0.8, "dry_penalty_last_n": 2000}
    return [
        draw_case("typical_p .9", (lambda _n: lib.llama_sampler_init_typical(0.9, 0),), typical_p=0.9),
        draw_case("top_n_sigma 1", (lambda _n: lib.llama_sampler_init_top_n_sigma(1.0),), top_n_sigma=1.0),
        draw_case(
            "xtc .1",
            (lambda _n: lib.llama_sampler_init_xtc(1.0, 0.1, 0, 1),),
            xtc_probability=1.0,
            xtc_threshold=0.1,
        ),
        draw_case("dynamic temperature", dynatemp_range=0.5),
        draw_case("mirostat 1", (lambda n: lib.llama_sampler_init_mirostat(n, 1, 5.0, 0.1, 100),), mirostat=1),
        draw_case("mirostat 2", (lambda _n: lib.llama_sampler_init_mirostat_v2(1, 5.0, 0.1),), mirostat=2),
        draw_case(
            "dry over 2000 tokens, greedy",
            (lambda _n: lib.llama_sampler_init_dry(vocab, 0.8, 1.75, 2, 2000, (ctypes.c_char_p * 0)(), 0),),
            HISTORY,
            temperature=0.0,
            **dry,
        ),
        Case("half of the tokens under a mask", half_allowed, rows=N_DRAWS),
    ]


def make_row(shape: str, n_vocab: int) -> Row:
    """A row of logits. flat: as of random weights. peaked: as of a trained model, with twenty high logits."""
    rng = np.random.default_rng(n_vocab)
    if shape == "flat":
        return rng.normal(0, 1, n_vocab).astype(np.float32)
    row = rng.normal(0, 2.5, n_vocab)
    row[rng.choice(n_vocab, 20, replace=False)] += rng.normal(14, 2, 20)
    return row.astype(np.float32)


def median_ns(call: Callable[[], object], seconds: float, before: Callable[[], object] | None = None) -> float:
    """The median CPU time of repeated calls. before: called before each one, untimed."""
    times: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        if before is not None:
            before()
        start = time.thread_time_ns()
        call()
        times.append(time.thread_time_ns() - start)
    return float(np.median(times))


class Peer:
    """llama.cpp's cost of a row: its chain through llama.h, and the code around it, compiled from peer_ways.cpp."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        with tempfile.TemporaryDirectory() as folder:
            library, source = Path(folder, "peer_ways.so"), Path(__file__).with_name("peer_ways.cpp")
            command = [os.environ.get("CXX", "c++"), "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library]
            subprocess.run(command, check=True)
            self.ways = ctypes.CDLL(str(library))
        self.silence = lib.llama_log_callback(lambda _level, _text, _data: None)
        lib.llama_log_set(self.silence, None)
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = lib.llama_model_load_from_file(str(MODEL_PATH).encode(), params)
        self.vocab = lib.llama_model_get_vocab(self.model)

    def fill_ns(self, row: Row) -> float:
        work = np.zeros(len(row), CANDIDATE)
        arguments = (ctypes.c_void_p(row.ctypes.data), len(row), ctypes.c_void_p(work.ctypes.data))
        return median_ns(lambda: self.ways.fill(*arguments), self.seconds)

    def logprobs_ns(self, row: Row) -> float:
        arguments = (ctypes.c_void_p(row.ctypes.data), len(row), 20)
        return median_ns(lambda: self.ways.logprobs(*arguments), self.seconds)

    def apply_ns(self, case: Case, row: Row) -> float:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for stage in case.chain:
            lib.llama_sampler_chain_add(chain, stage(len(row)))
        for token_id in case.seen:
            lib.llama_sampler_accept(chain, token_id)
        work = np.zeros(len(row), CANDIDATE)
        data = ctypes.cast(work.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        candidates = lib.llama_token_data_array(data, len(row), -1, False)

        def refresh() -> None:
            self.ways.fill(ctypes.c_void_p(row.ctypes.data), len(row), ctypes.c_void_p(work.ctypes.data))
            candidates.data, candidates.size, candidates.selected, candidates.sorted = data, len(row), -1, False

        ns = median_ns(lambda: lib.llama_sampler_apply(chain, ctypes.byref(candidates)), self.seconds, refresh)
        lib.llama_sampler_free(chain)
        return ns


def measure(peer: Peer, shape: str, n_vocab: int) -> list[dict[str, str | float | None]]:
    seconds = peer.seconds
    row = make_row(shape, n_vocab)
    plain_max = median_ns(lambda: np.max(row), seconds)
    fill = peer.fill_ns(row)
    results: list[dict[str, str | float | None]] = []

    def add(name: str, ours: float, numpy: float | None, apply: float | None, whole: float | None) -> None:
        ratios = [None if theirs is None else round(theirs / ours, 1) for theirs in (numpy, apply, whole)]
        result: dict[str, str | float | None] = {
            "n_vocab": n_vocab,
            "row": shape,
            "kernel": name,
            "us_per_row": round(ours / 1000, 1),
            "times_max": round(ours / plain_max, 2),
        }
        result |= dict(zip(("numpy_ratio", "llama_cpp_apply_ratio", "llama_cpp_row_ratio"), ratios, strict=True))
        results.append(result)
        print("|", " | ".join("-" if value is None else str(value) for value in result.values()), "|", flush=True)

    def own_ns(case: Case) -> float:
        call, own_row = case.ours(n_vocab), make_row(shape, n_vocab)
        call(own_row)
        return median_ns(lambda: call(own_row), seconds) / case.rows

    for case in itertools.chain(usual_cases(), rarer_cases(peer.vocab)):
        numpy_row = make_row(shape, n_vocab)
        numpy_call = case.numpy
        theirs = median_ns(lambda: numpy_call(numpy_row), seconds) if numpy_call else None  # noqa: B023
        chain = peer.apply_ns(case, row) if case.chain else None
        add(case.name, own_ns(case), theirs, chain, None if chain is None else chain + fill)
    ours = median_ns(lambda: (_kernels.logsumexp(row), _kernels.top_n(row, 20)), seconds)
    numpy_ns = median_ns(lambda: (numpy_logsumexp(row), numpy_top_n(row)), seconds)
    add("logprobs of the 20 best", ours, numpy_ns, None, peer.logprobs_ns(row))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the sampling kernels.")
    parser.add_argument("--quick", action="store_true", help="short measurements, V = 32k and 152k only")
    parser.add_argument("--vocabularies", nargs="+", type=int, help="sizes instead of 32000 151936 248320")
    options = parser.parse_args()
    sizes = options.vocabularies or ([32_000, 151_936] if options.quick else [32_000, 151_936, 248_320])
    peer = Peer(0.05 if options.quick else 0.3)
    print("| V | row | kernel | us/row | x max | numpy | llama.cpp apply | llama.cpp row |")
    print("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    results = [result for n_vocab in sizes for shape in ("flat", "peaked") for result in measure(peer, shape, n_vocab)]
    print(json.dumps({"benchmark": "kernels", "load_average": os.getloadavg()[0], "results": results}))


if __name__ == "__main__":
    main()
