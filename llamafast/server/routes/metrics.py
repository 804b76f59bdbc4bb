"""GET /metrics: the engine's counts in Prometheus text, under vLLM's names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llamafast.server.state import ServerState

if TYPE_CHECKING:
    from llamafast.engine.async_engine import AsyncEngine
    from llamafast.engine.metrics import Histogram

_LABELS = ("model_name", "engine")


def metrics_router(state: ServerState) -> APIRouter:
    """The route over `state`."""
    router = APIRouter(tags=["health"])
    state.registry.register(EngineCollector(state.engine, state.settings.alias))
    ProcessCollector(registry=state.registry)

    @router.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics where the client asks for it."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(state.registry), headers={"content-type": content_type})

    return router


class EngineCollector(Collector):
    """Reads the engine's counters when it is scraped: a step pays nothing for it. Names: vLLM 0.33, v1 loggers."""

    def __init__(self, engine: AsyncEngine, model_name: str) -> None:
        self._engine = engine
        self._labels = (model_name, "0")

    def collect(self) -> Iterator[Metric]:
        """All families, once."""
        yield from self._gauges()
        yield from self._counters()
        yield from self._disk_cache()
        yield from self._histograms()

    def _gauges(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        idle = not engine.num_running or not stats.last_step_s
        values = (
            ("vllm:num_requests_running", "Requests in the batch.", engine.num_running),
            ("vllm:num_requests_waiting", "Requests in the queue.", engine.num_waiting),
            ("vllm:kv_cache_usage_perc", "Used share of the KV cells, 0 to 1.", stats.kv_usage),
            ("vllm:gpu_cache_usage_perc", "Older name of vllm:kv_cache_usage_perc.", stats.kv_usage),
            (
                "llamafast:last_step_age_seconds",
                "Time since the last finished step while requests run; a large value is a stalled engine.",
                0.0 if idle else time.monotonic() - stats.last_step_s,
            ),
        )
        for name, text, value in values:
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "KV cells, as blocks of one.", labels=(*_LABELS, "block_size", "num_gpu_blocks")
        )
        info.add_metric((*self._labels, "1", str(stats.n_cells)), 1)
        yield info

    def _disk_cache(self) -> Iterator[Metric]:
        stats = self._engine.stats.disk_cache
        if stats is None:
            return
        counts = (
            ("hits", "Requests that began with a state from the disk.", stats.hits),
            ("hit_tokens", "Prompt tokens that came from the disk.", stats.hit_tokens),
            ("misses", "Requests for which the disk had nothing.", stats.misses),
            ("writes", "States written.", stats.writes),
            ("written_bytes", "Bytes written.", stats.written_bytes),
            ("evictions", "States removed to stay under the cap.", stats.evictions),
            ("damaged", "Files removed since they were not what was once written.", stats.damaged),
            ("foreign", "Files of other models or settings that were skipped.", stats.foreign),
            ("dropped", "States not written: the disk was too slow, or the cap too small.", stats.dropped),
            ("failures", "Errors of the disk.", stats.failures),
        )
        for name, text, value in counts:
            counter = CounterMetricFamily(f"llamafast:disk_cache_{name}", text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        for name, text, value in (
            ("states", "States of this model in the folder.", stats.num_states),
            ("bytes", "Size of the folder's states, of all models.", stats.num_bytes),
        ):
            gauge = GaugeMetricFamily(f"llamafast:disk_cache_{name}", text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge

    def _counters(self) -> Iterator[Metric]:
        stats = self._engine.stats
        values = (
            ("vllm:prompt_tokens", "Prompt tokens of started requests.", stats.prompt_tokens),
            ("vllm:generation_tokens", "Generated tokens.", stats.generation_tokens),
            ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_hits),
            ("vllm:gpu_prefix_cache_queries", "Older name of vllm:prefix_cache_queries.", stats.prefix_queries),
            ("vllm:gpu_prefix_cache_hits", "Older name of vllm:prefix_cache_hits.", stats.prefix_hits),
            ("vllm:num_preemptions", "Requests set back to make room.", stats.preemptions),
            ("llamafast:context_shifts", "Blocks dropped out of full contexts.", stats.context_shifts),
            ("llamafast:prefix_cache_evictions", "Cached prefixes dropped to make room.", stats.prefix_evictions),
            (
                "llamafast:computed_prompt_tokens",
                "Prompt tokens computed, those after a preemption included.",
                stats.computed_prompt_tokens,
            ),
            ("llamafast:steps", "Engine steps.", stats.steps),
        )
        for name, text, value in values:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        finished = CounterMetricFamily(
            "vllm:request_success", "Finished requests.", labels=(*_LABELS, "finished_reason")
        )
        for reason, number in stats.finished.items():
            finished.add_metric((*self._labels, reason), number)
        yield finished
        misses = CounterMetricFamily(
            "llamafast:prefix_cache_misses", "Requests by why no more of them was cached.", labels=(*_LABELS, "reason")
        )
        for reason, number in stats.prefix_misses.items():
            misses.add_metric((*self._labels, reason), number)
        yield misses
        rejections = CounterMetricFamily(
            "vllm:admission_rejections", "Requests refused at the door.", labels=(*_LABELS, "reason")
        )
        rejections.add_metric((*self._labels, "queue_full"), stats.rejections)
        yield rejections

    def _histograms(self) -> Iterator[Metric]:
        stats = self._engine.stats
        values = (
            ("time_to_first_token_seconds", "Arrival to first token.", stats.time_to_first_token),
            ("inter_token_latency_seconds", "Between two tokens of a choice.", stats.inter_token_latency),
            ("e2e_request_latency_seconds", "Arrival to last token.", stats.e2e_latency),
            ("request_queue_time_seconds", "Arrival to first step.", stats.queue_time),
            ("request_prefill_time_seconds", "First step to first token.", stats.prefill_time),
            ("request_decode_time_seconds", "First token to last.", stats.decode_time),
            ("request_prompt_tokens", "Prompt tokens per request.", stats.request_prompt_tokens),
            ("request_generation_tokens", "Generated tokens per request.", stats.request_generation_tokens),
            ("request_params_n", "Choices per request.", stats.request_n),
            ("iteration_tokens_total", "Tokens per step.", stats.iteration_tokens),
        )
        for name, text, histogram in values:
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            family.add_metric(self._labels, _buckets(histogram), histogram.sum)
            yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus wants them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    names = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    for name, count in zip(names, tuple(histogram.counts), strict=True):
        total += count
        buckets.append((name, total))
    return buckets
