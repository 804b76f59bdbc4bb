"""GET /metrics: the engines' counts in Prometheus text, under the names of vLLM 0.33 (v1 loggers)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from fastapi import APIRouter, Request, Response
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llamafast.cache.disk.disk_cache import DiskCacheStats
from llamafast.engine.engine_thread import EngineThread
from llamafast.engine.metrics import EngineStats, Histogram, MediaStats
from llamafast.server.state import ServerState

T = TypeVar("T")
Source = TypeVar("Source")
AnyEngine: TypeAlias = EngineThread[Any, Any, Any]

# Rows of a table: the name of a metric family, its help text, and a function that reads its value.
Table: TypeAlias = Sequence[tuple[str, str, Callable[[Source], T]]]
# For each model: the values of _LABELS, and the object that its metrics are read from.
Sources: TypeAlias = Sequence[tuple[tuple[str, ...], Source]]

_LABELS = ("model_name", "engine")

_ENGINE_GAUGES: Table[AnyEngine, float] = (
    ("vllm:num_requests_running", "Requests in the batch.", lambda engine: engine.num_running),
    ("vllm:num_requests_waiting", "Requests in the queue.", lambda engine: engine.num_waiting),
    ("vllm:kv_cache_usage_perc", "Used share of the KV cells, 0 to 1.", lambda engine: engine.stats.kv_usage),
    ("vllm:gpu_cache_usage_perc", "Older name of vllm:kv_cache_usage_perc.", lambda engine: engine.stats.kv_usage),
    (
        "llamafast:last_step_age_seconds",
        "Time since the last finished step while requests run; a large value is a stalled engine.",
        lambda engine: _last_step_age_s(engine),
    ),
)

_ENGINE_COUNTERS: Table[EngineStats, float] = (
    ("vllm:prompt_tokens", "Prompt tokens of started requests.", lambda stats: stats.prompt_tokens),
    ("vllm:generation_tokens", "Generated tokens.", lambda stats: stats.generation_tokens),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda stats: stats.prefix_queries),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda stats: stats.prefix_hits),
    (
        "vllm:gpu_prefix_cache_queries",
        "Older name of vllm:prefix_cache_queries.",
        lambda stats: stats.prefix_queries,
    ),
    ("vllm:gpu_prefix_cache_hits", "Older name of vllm:prefix_cache_hits.", lambda stats: stats.prefix_hits),
    (
        "vllm:num_preemptions",
        "Preempted requests: their cells were freed for others, and they wait again.",
        lambda stats: stats.preemptions,
    ),
    ("llamafast:context_shifts", "Blocks dropped from full contexts.", lambda stats: stats.context_shifts),
    (
        "llamafast:prefix_cache_evictions",
        "Cached prefixes dropped to make room.",
        lambda stats: stats.prefix_evictions,
    ),
    (
        "llamafast:computed_prompt_tokens",
        "Prompt tokens computed, including those computed again after a preemption.",
        lambda stats: stats.computed_prompt_tokens,
    ),
    ("llamafast:steps", "Engine steps.", lambda stats: stats.steps),
    ("llamafast:embedding_requests", "Requests for embeddings.", lambda stats: stats.embedding_requests),
    ("llamafast:embedding_inputs", "Inputs of requests for embeddings.", lambda stats: stats.embedding_inputs),
)

_LABELLED_COUNTERS: Sequence[tuple[str, str, str, Callable[[EngineStats], Mapping[str, int]]]] = (
    ("vllm:request_success", "Finished requests.", "finished_reason", lambda stats: stats.finished),
    (
        "llamafast:prefix_cache_misses",
        "Requests by the reason why the rest of their prompt was not cached.",
        "reason",
        lambda stats: stats.prefix_misses,
    ),
    (
        "vllm:admission_rejections",
        "Requests refused before they are queued.",
        "reason",
        lambda stats: {"queue_full": stats.rejections},
    ),
)

_DISK_COUNTERS: Table[DiskCacheStats, float] = (
    ("llamafast:disk_cache_hits", "Requests that started from a state on the disk.", lambda disk: disk.hits),
    ("llamafast:disk_cache_hit_tokens", "Prompt tokens that came from the disk.", lambda disk: disk.hit_tokens),
    ("llamafast:disk_cache_misses", "Requests for which the disk had no usable state.", lambda disk: disk.misses),
    ("llamafast:disk_cache_writes", "States written.", lambda disk: disk.writes),
    ("llamafast:disk_cache_written_bytes", "Bytes written.", lambda disk: disk.written_bytes),
    ("llamafast:disk_cache_evictions", "States removed to stay under the cap.", lambda disk: disk.evictions),
    (
        "llamafast:disk_cache_damaged",
        "Files removed because their content had changed since they were written.",
        lambda disk: disk.damaged,
    ),
    (
        "llamafast:disk_cache_foreign",
        "Files of other models or settings, which were skipped.",
        lambda disk: disk.foreign,
    ),
    (
        "llamafast:disk_cache_dropped",
        "States not written because the disk was too slow or the cap too small.",
        lambda disk: disk.dropped,
    ),
    ("llamafast:disk_cache_failures", "Errors of the disk.", lambda disk: disk.failures),
)

_DISK_GAUGES: Table[DiskCacheStats, float] = (
    ("llamafast:disk_cache_states", "States of this model in the folder.", lambda disk: disk.num_states),
    ("llamafast:disk_cache_bytes", "Size of the states in the folder, of all models.", lambda disk: disk.num_bytes),
)

_MEDIA_COUNTERS: Table[MediaStats, float] = (
    ("llamafast:media_encoded", "Images and sounds encoded.", lambda media: media.num_encoded),
    ("llamafast:media_failed", "Images and sounds of which the encoding failed.", lambda media: media.num_failed),
    ("llamafast:media_rows", "Rows of embeddings computed.", lambda media: media.num_rows),
    ("llamafast:media_encode_seconds", "Time of all encodings.", lambda media: media.encode_s),
    ("llamafast:media_hits", "Images and sounds whose embeddings were kept.", lambda media: media.num_hits),
)

_MEDIA_GAUGES: Table[MediaStats, float] = (
    ("llamafast:media_waiting", "Images and sounds that wait for their encoding.", lambda media: media.num_waiting),
    ("llamafast:media_kept_bytes", "Size of the embeddings in memory.", lambda media: media.num_bytes),
)

_HISTOGRAMS: Table[EngineStats, Histogram] = (
    (
        "vllm:time_to_first_token_seconds",
        "Time from arrival to the first token.",
        lambda stats: stats.time_to_first_token,
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Time between two tokens of a choice.",
        lambda stats: stats.inter_token_latency,
    ),
    ("vllm:e2e_request_latency_seconds", "Time from arrival to the last token.", lambda stats: stats.e2e_latency),
    ("vllm:request_queue_time_seconds", "Time from arrival to the first step.", lambda stats: stats.queue_time),
    (
        "vllm:request_prefill_time_seconds",
        "Time from the first step to the first token.",
        lambda stats: stats.prefill_time,
    ),
    ("vllm:request_decode_time_seconds", "Time from the first token to the last.", lambda stats: stats.decode_time),
    ("vllm:request_prompt_tokens", "Prompt tokens per request.", lambda stats: stats.request_prompt_tokens),
    (
        "vllm:request_generation_tokens",
        "Generated tokens per request.",
        lambda stats: stats.request_generation_tokens,
    ),
    ("vllm:request_params_n", "Choices per request.", lambda stats: stats.request_n),
    ("vllm:iteration_tokens_total", "Tokens per step.", lambda stats: stats.iteration_tokens),
)


def metrics_router(state: ServerState) -> APIRouter:
    """The router with this route. It reads the models of `state`."""
    router = APIRouter(tags=["health"])
    state.registry.register(EngineCollector(state))
    ProcessCollector(registry=state.registry)

    @router.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics if the client asks for it."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(state.registry), headers={"content-type": content_type})

    return router


class EngineCollector(Collector):
    """Reads the engines' counters at each scrape, so that steps have no extra cost. model_name is the alias."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Each family once, with the values of all models."""
        engines = [((model.alias, "0"), model.engine_thread) for model in self._state.models]
        stats = [(labels, engine.stats) for labels, engine in engines]
        disks = [(labels, each.disk_cache) for labels, each in stats if each.disk_cache is not None]
        yield from _gauges(_ENGINE_GAUGES, engines)
        yield _cells(stats)
        yield from _counters(_ENGINE_COUNTERS, stats)
        yield from _labelled_counters(stats)
        if disks:
            yield from _counters(_DISK_COUNTERS, disks)
            yield from _gauges(_DISK_GAUGES, disks)
        media = [(labels, each.media) for labels, each in stats if each.media is not None]
        if media:
            yield from _counters(_MEDIA_COUNTERS, media)
            yield from _gauges(_MEDIA_GAUGES, media)
        yield from _histograms(stats)


def _gauges(table: Table[Source, float], sources: Sources[Source]) -> Iterator[Metric]:
    for name, text, read in table:
        gauge = GaugeMetricFamily(name, text, labels=_LABELS)
        for labels, source in sources:
            gauge.add_metric(labels, read(source))
        yield gauge


def _counters(table: Table[Source, float], sources: Sources[Source]) -> Iterator[Metric]:
    for name, text, read in table:
        counter = CounterMetricFamily(name, text, labels=_LABELS)
        for labels, source in sources:
            counter.add_metric(labels, read(source))
        yield counter


def _labelled_counters(sources: Sources[EngineStats]) -> Iterator[Metric]:
    for name, text, label, read in _LABELLED_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=(*_LABELS, label))
        for labels, stats in sources:
            for value, number in read(stats).items():
                counter.add_metric((*labels, value), number)
        yield counter


def _histograms(sources: Sources[EngineStats]) -> Iterator[Metric]:
    for name, text, read in _HISTOGRAMS:
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for labels, stats in sources:
            histogram = read(stats)
            family.add_metric(labels, _buckets(histogram), histogram.sum)
        yield family


def _cells(sources: Sources[EngineStats]) -> Metric:
    labels = (*_LABELS, "block_size", "num_gpu_blocks")
    info = GaugeMetricFamily("vllm:cache_config_info", "The KV cells, as blocks of one cell.", labels=labels)
    for values, stats in sources:
        info.add_metric((*values, "1", str(stats.n_cells)), 1)
    return info


def _last_step_age_s(engine: AnyEngine) -> float:
    last_step_s = engine.stats.last_step_s
    return time.monotonic() - last_step_s if engine.num_running and last_step_s else 0.0


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus takes them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    names = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    for name, count in zip(names, tuple(histogram.counts), strict=True):
        total += count
        buckets.append((name, total))
    return buckets
