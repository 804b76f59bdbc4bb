"""Measures the engine's own cost: time per step outside llama_decode, without HTTP.

usage: python benchmarks/bench_overhead.py [--quick] [--model FILE] [--sequences 1 8 32 64]
Per number of sequences, in microseconds per generated token: decode, sampling, and scheduling + output (wall time of
Engine.step minus the other two). In rows named "fake" a runner that returns at once replaces the model, so that no
decode evicts the engine's data from the processor's caches. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from array import array
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models import BUILT_IN

from llamafast.engine.engine import Engine, EngineConfig
from llamafast.engine.plan import StepPlan
from llamafast.request import Request, SamplingParams

WARM_UP_STEPS = 8
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True),
    "sampled": SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, ignore_eos=True, seed=1),
}


class FakeRunner:
    """A fake ModelRunner: it decodes nothing, and every sequence draws the same ordinary token."""

    token_id = ord("a")
    decode_s = sample_s = 0.0

    def step(self, plan: StepPlan) -> list[list[int]]:
        """Draw one token per row."""
        token_id = self.token_id
        return [[token_id] for _ in plan.rows]

    def logprobs(self, i: int, k: int) -> tuple[float, list[tuple[int, float]]]:
        """The logprob of a certain token."""
        return 0.0, []


@dataclass(frozen=True, slots=True)
class Overhead:
    """Microseconds per generated token: medians over steps that only decode."""

    runner: str
    sampling: str
    sequences: int
    steps: int
    decode_us: float
    sample_us: float
    other_us: float
    other_us_per_step: float


def distinct_prompt(number: int) -> array[int]:
    """A prompt of eight ordinary tokens. Different numbers share no prefix."""
    return array("i", [256 + (number * 8 + place) % 2048 for place in range(8)])


def decode_steps(
    engine: Engine, sequences: int, steps: int, params: SamplingParams
) -> list[tuple[float, float, float]]:
    """Seconds of each step that decodes all sequences: in llama_decode, in sampling, and in everything else."""
    for number in range(sequences):
        engine.add(Request(f"bench-{number}", distinct_prompt(number), params))
    started: set[str] = set()
    while len(started) < sequences:
        started.update(output.request_id for output in engine.step())
    for _ in range(WARM_UP_STEPS):
        engine.step()
    runner = engine.runner
    seconds: list[tuple[float, float, float]] = []
    for _ in range(steps):
        decode_s, sample_s, start = runner.decode_s, runner.sample_s, time.perf_counter()
        outputs = engine.step()
        total_s = time.perf_counter() - start
        decode_s, sample_s = runner.decode_s - decode_s, runner.sample_s - sample_s
        seconds.append((decode_s, sample_s, total_s - decode_s - sample_s))
        if sum(len(output.token_ids) for output in outputs) != sequences:
            raise RuntimeError(f"a step of {sequences} sequences made {len(outputs)} outputs")
    for number in range(sequences):
        engine.abort(f"bench-{number}")
    while engine.has_work:
        engine.step()
    return seconds


def measure(options: argparse.Namespace, sequences: int, sampling: str, *, fake: bool) -> Overhead:
    """The medians over all steps of all repeats, on one engine."""
    num_tokens = options.steps + WARM_UP_STEPS + 64
    params = replace(SAMPLING[sampling], max_tokens=num_tokens)
    cells = sequences * (num_tokens + 64)
    config = EngineConfig(
        n_ctx=cells,
        n_seq_max=sequences,
        threads=options.threads,
        threads_batch=options.threads,
        enable_prefix_cache=False,
    )
    engine = Engine(str(options.model), config)
    if fake:
        engine.runner = FakeRunner()
    try:
        seconds = [
            step for _ in range(options.repeats) for step in decode_steps(engine, sequences, options.steps, params)
        ]
    finally:
        engine.close()
    decode_us, sample_us, other_us = (statistics.median(part) * 1e6 for part in zip(*seconds, strict=True))
    return Overhead(
        runner="fake" if fake else "model",
        sampling=sampling,
        sequences=sequences,
        steps=len(seconds),
        decode_us=round(decode_us / sequences, 2),
        sample_us=round(sample_us / sequences, 2),
        other_us=round(other_us / sequences, 2),
        other_us_per_step=round(other_us, 2),
    )


def main() -> int:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILT_IN)
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repeat of 100 steps")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 100, 1
    print(
        "| runner | sampling | sequences | decode | sampling | scheduling + output (all us/token) | the last per step |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    rows: list[Overhead] = []
    for fake, sampling in ((False, "greedy"), (False, "sampled"), (True, "greedy")):
        for sequences in options.sequences:
            row = measure(options, sequences, sampling, fake=fake)
            rows.append(row)
            print(
                f"| {row.runner} | {row.sampling} | {row.sequences} | {row.decode_us} | {row.sample_us} |"
                f" {row.other_us} | {row.other_us_per_step} |"
            )
    print(json.dumps({"bench": "overhead", "model": options.model.name, "rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
