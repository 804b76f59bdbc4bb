"""The engine's counters and gauges: plain numbers, written by the engine's thread, read by any thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field

from llamafast.cache.disk.disk_cache import DiskCacheStats
from llamafast.request import MissReason

# vLLM's upper bounds, with finer steps below for small models.
_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 640.0, 2560.0,
)  # fmt: skip
_REQUEST_S = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 480.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
_CHOICES = (1, 2, 5, 10, 20)


class Histogram:
    """Counts of values by upper bound.

    bounds: upper bounds, ascending, shape (n,).
    counts: values up to each bound and above the one before, shape (n + 1,); the last has no bound.
    sum: sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """Number of all values."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value, or the same value several times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


def _latency() -> Histogram:
    return Histogram(_LATENCY_S)


def _request() -> Histogram:
    return Histogram(_REQUEST_S)


def _tokens() -> Histogram:
    return Histogram(_TOKENS)


@dataclass(slots=True)
class MediaStats:
    """Counters and gauges of the encoder of images and sounds.

    num_encoded, num_failed: files encoded, and files of which the encoding failed.
    num_rows: rows of embeddings that the encodings gave.
    encode_s: seconds of all encodings, with the preparation of pixels and samples.
    num_hits: files whose embeddings were kept from an earlier encoding.
    num_waiting: files that wait for their encoding, or are being encoded.
    num_bytes: bytes of the embeddings that are kept.
    """

    num_encoded: int = 0
    num_failed: int = 0
    num_rows: int = 0
    encode_s: float = 0.0
    num_hits: int = 0
    num_waiting: int = 0
    num_bytes: int = 0


@dataclass(slots=True)
class EngineStats:
    """Counters, gauges and histograms. Counters only grow; gauges describe the last step. Times are in seconds.

    Counters:
    prompt_tokens: tokens of the prompts of admitted requests.
    generation_tokens: tokens of all outputs.
    prefix_queries: prompt tokens that were looked up in the prefix cache.
    prefix_hits: prompt tokens that came from the prefix cache.
    prefix_evictions: finished prefixes that were dropped, or cut.
    prefix_misses: admitted requests by MissReason.
    computed_prompt_tokens: prompt tokens computed; a preempted prompt counts again.
    preemptions: sequences that went back to the queue because no cells were left.
    context_shifts: times that a sequence lost old tokens because its context was full.
    rejections: requests refused because the queue was full.
    steps: decodes.
    embedding_requests: requests for embeddings.
    embedding_inputs: inputs of those requests.
    finished: requests by FinishReason.
    disk_cache: counters of the disk cache; None without one.
    media: counters of the encoder; None without a projector.

    Gauges:
    num_running: sequences that run.
    num_waiting: sequences in the waiting queue.
    num_cells: KV cells in use.
    n_cells: KV cells in all.
    last_step_s: time.monotonic() at the end of the last step; 0 before the first.

    Histograms:
    time_to_first_token: from arrival to the first token.
    inter_token_latency: between two tokens of a sequence.
    e2e_latency: from arrival to the end.
    queue_time: from arrival to the first admission.
    prefill_time: from the first admission to the first token.
    decode_time: from the first token to the end.
    request_prompt_tokens: tokens per prompt.
    request_generation_tokens: output tokens per request, all choices together.
    request_n: choices per request.
    iteration_tokens: rows per decode.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prefix_evictions: int = 0
    prefix_misses: dict[str, int] = field(default_factory=lambda: {reason.value: 0 for reason in MissReason})
    computed_prompt_tokens: int = 0
    preemptions: int = 0
    context_shifts: int = 0
    rejections: int = 0
    steps: int = 0
    embedding_requests: int = 0
    embedding_inputs: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})

    disk_cache: DiskCacheStats | None = None
    media: MediaStats | None = None

    num_running: int = 0
    num_waiting: int = 0
    num_cells: int = 0
    n_cells: int = 0
    last_step_s: float = 0.0

    time_to_first_token: Histogram = field(default_factory=_latency)
    inter_token_latency: Histogram = field(default_factory=_latency)
    e2e_latency: Histogram = field(default_factory=_request)
    queue_time: Histogram = field(default_factory=_request)
    prefill_time: Histogram = field(default_factory=_request)
    decode_time: Histogram = field(default_factory=_request)
    request_prompt_tokens: Histogram = field(default_factory=_tokens)
    request_generation_tokens: Histogram = field(default_factory=_tokens)
    request_n: Histogram = field(default_factory=lambda: Histogram(_CHOICES))
    iteration_tokens: Histogram = field(default_factory=_tokens)

    def add_rejection(self) -> None:
        """Count a request that was refused because the queue is full. To be called on the event loop."""
        self.rejections += 1

    def add_request(self, num_prompt_tokens: int, n: int) -> None:
        """Count a request that was queued."""
        self.request_prompt_tokens.observe(num_prompt_tokens)
        self.request_n.observe(n)

    def add_embedding_request(self, num_tokens: int, num_inputs: int) -> None:
        """Count a request for embeddings that was queued. num_tokens: of all its inputs."""
        self.embedding_requests += 1
        self.embedding_inputs += num_inputs
        self.prompt_tokens += num_tokens
        self.request_prompt_tokens.observe(num_tokens)

    def add_step(self, now: float, num_rows: int, num_tokens: int) -> None:
        """Count a decode of num_rows rows that generated num_tokens tokens. now: time.monotonic()."""
        self.steps += 1
        self.generation_tokens += num_tokens
        self.iteration_tokens.observe(num_rows)
        self.last_step_s = now

    def add_first_token(self, now: float, arrival_s: float, scheduled_s: float) -> None:
        """Count a prompt that has been computed. All times are of time.monotonic()."""
        self.time_to_first_token.observe(now - arrival_s)
        self.prefill_time.observe(now - scheduled_s)

    def add_end(self, reason: str, num_tokens: int, arrival_s: float, first_token_s: float) -> None:
        """Count a request that ends now. Times are of time.monotonic(); first_token_s 0: it had no token."""
        now = time.monotonic()
        self.finished[reason] += 1
        self.request_generation_tokens.observe(num_tokens)
        self.e2e_latency.observe(now - arrival_s)
        if first_token_s:
            self.decode_time.observe(now - first_token_s)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cells in use, 0 to 1."""
        return self.num_cells / self.n_cells if self.n_cells else 0.0
