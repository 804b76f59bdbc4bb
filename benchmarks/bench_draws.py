"""Measures how often a draw changes ("flips") if the logits differ only by rounding, as under load.

usage: python benchmarks/bench_draws.py [--quick] [--no-model]
Kernel: two draws from each row with the same random numbers, the second one with noise on the logits. `inverse` is a
draw by the inverse of the cumulated probabilities in the order of the ids, with one random number. `race` is the draw
of this project. `tv` is the total variation of the two distributions: no draw can flip less often, and a race flips at
most 2 tv / (1 + tv). All three are averages over the rows. `inverse` is computed and not counted, because flips are
rare: it is the total length of the intervals of the random number in which the tokens differ.
Model: seeded requests to the built-in model, alone, 2 at once and 8 at once: how many of 48 texts differ.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import zlib
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

import llamafast
from llamafast import _kernels
from llamafast.engine.engine import Engine, EngineConfig
from llamafast.request import Request, SamplingParams

Row = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
MODEL_PATH = Path(llamafast.__file__).parent / "models" / "tiny-qwen35-f16.gguf"
SHIFT = 1e-3  # standard deviation of the noise: larger than real rounding (1e-4), so that flips can be counted
FILTERS: list[dict[str, float]] = [{}, {"top_p": 0.95}, {"min_p": 0.05}, {"top_k": 40}]
PROMPTS = ["Tell me a story about a fox.", "Name three colours.", "What is 7 plus 5?", "The capital of France is"]


def make_row(shape: str, n_vocab: int, number: int) -> Row:
    """A row of logits. flat: as of random weights. peaked: as of a trained model, with twenty high logits."""
    rng = np.random.default_rng([n_vocab, number])
    if shape == "flat":
        return rng.normal(0, 1, n_vocab).astype(np.float32)
    row = rng.normal(0, 2.5, n_vocab)
    row[rng.choice(n_vocab, 20, replace=False)] += rng.normal(14, 2, 20)
    return row.astype(np.float32)


def kept(row: Row, filters: dict[str, float]) -> npt.NDArray[np.bool_]:
    """The tokens that the filter keeps. At most one filter is set."""
    order = np.argsort(-row, kind="stable")
    if top_k := int(filters.get("top_k", 0)):
        order = order[:top_k]
    if "top_p" in filters:
        p = np.exp(row[order].astype(np.float64) - row.max())
        order = order[: int(np.searchsorted(np.cumsum(p), filters["top_p"] * p.sum())) + 1]
    if "min_p" in filters:
        order = order[row[order] >= row.max() + np.log(filters["min_p"])]
    left = np.zeros(len(row), np.bool_)
    left[order] = True
    return left


def distribution(row: Row, temperature: float, filters: dict[str, float]) -> Floats:
    p = np.exp((row.astype(np.float64) - row.max()) / temperature) * kept(row, filters)
    result: Floats = p / p.sum()
    return result


def inverse_flips(p: Floats, q: Floats) -> float:
    """1 - the overlap of the intervals [cumulated before i, after i) of p and q, in which the tokens are equal."""
    p_end, q_end = np.cumsum(p), np.cumsum(q)
    overlap = np.minimum(p_end, q_end) - np.maximum(p_end - p, q_end - q)
    return float(1 - np.maximum(overlap, 0).sum())


def kernel_case(shape: str, n_vocab: int, temperature: float, filters: dict[str, float], n: int) -> dict[str, object]:
    """Measure n rows with 1,000 draws each."""
    flips, tv, inverse, n_draws = 0, 0.0, 0.0, 1000
    for number in range(n):
        row = make_row(shape, n_vocab, number)
        noise = np.random.default_rng(number).normal(0, SHIFT, n_vocab)
        rows = (row, (row + noise).astype(np.float32))
        p, q = (distribution(x, temperature, filters) for x in rows)
        tv += float(np.abs(p - q).sum()) / 2 / n
        inverse += inverse_flips(p, q) / n
        seed = zlib.crc32(repr((shape, n_vocab, temperature, filters, number)).encode())
        top_k, top_p, min_p = int(filters.get("top_k", 0)), filters.get("top_p", 1.0), filters.get("min_p", 0.0)
        first, second = (
            _kernels.draw(x, n_draws, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
            for x in rows
        )
        flips += sum(a != b for a, b in zip(first, second, strict=True))
    return {
        "row": shape,
        "n_vocab": n_vocab,
        "temperature": temperature,
        "filters": filters,
        "tv": tv,
        "inverse": inverse,
        "race": flips / (n * n_draws),
        "n_draws": n * n_draws,
    }


def texts(engine: Engine, requests: list[Request], at_once: int) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for start in range(0, len(requests), at_once):
        for request in requests[start : start + at_once]:
            engine.validate(request)
            engine.add(request)
        while engine.has_work:
            for output in engine.step():
                tokens[output.request_id] += output.token_ids
    return tokens


def model_case(max_tokens: int) -> dict[str, object]:
    with Engine(str(MODEL_PATH), EngineConfig(n_ctx=4096, n_seq_max=8, threads=1, enable_prefix_cache=False)) as engine:
        prompts = [engine.tokenizer.encode(text, add_special=True, parse_special=False) for text in PROMPTS]
        requests = [
            Request(
                str(i),
                array("i", prompts[i % len(prompts)]),
                SamplingParams(temperature=1.0, max_tokens=max_tokens, seed=i, ignore_eos=True),
            )
            for i in range(48)
        ]
        alone = texts(engine, requests, 1)
        differing = {
            f"at_once_{n}": sum(texts(engine, requests, n)[key] != alone[key] for key in alone) for n in (2, 8)
        }
    return {"texts": len(requests), "max_tokens": max_tokens, **differing}


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts draws that change if the logits differ by rounding.")
    parser.add_argument("--quick", action="store_true", help="few rows, V = 32k only")
    parser.add_argument("--no-model", action="store_true", help="only the kernels")
    options = parser.parse_args()
    kernel = []
    print("| V | row | temperature | filter | tv | race / tv | inverse / tv |")
    print("| ---: | --- | ---: | --- | ---: | ---: | ---: |")
    for n_vocab in (32_000,) if options.quick else (32_000, 151_936, 248_320):
        for shape in ("flat", "peaked"):
            for temperature in (0.7, 1.0, 1.5):
                for filters in FILTERS:
                    case = kernel_case(shape, n_vocab, temperature, filters, 2 if options.quick else 8)
                    kernel.append(case)
                    tv, race, inverse = (float(str(case[key])) for key in ("tv", "race", "inverse"))
                    ratios = f"{race / tv:.1f} | {inverse / tv:.1f}"
                    print(f"| {n_vocab} | {shape} | {temperature} | {filters} | {tv:.1e} | {ratios} |", flush=True)
    print("\n| V | row | tv | race / tv | inverse / tv |\n| ---: | --- | ---: | ---: | ---: |")
    for place, cases in itertools.groupby(kernel, lambda case: (case["n_vocab"], case["row"])):
        group = list(cases)
        tv, race, inverse = (float(np.mean([float(str(c[key])) for c in group])) for key in ("tv", "race", "inverse"))
        print(f"| {place[0]} | {place[1]} | {tv:.1e} | {race / tv:.1f} | {inverse / tv:.1f} |", flush=True)
    model = {} if options.no_model else model_case(64)
    print(json.dumps({"benchmark": "draws", "shift": SHIFT, "kernel": kernel, "model": model}))


if __name__ == "__main__":
    main()
