"""The counts of the store of responses in /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llamafast.responses.database import StoreCounts
from llamafast.responses.store import ResponseStore

_GAUGES: Sequence[tuple[str, str, Callable[[StoreCounts], int]]] = (
    ("llamafast:responses_stored", "Responses in the store.", lambda counts: counts.num_rows),
    ("llamafast:responses_store_bytes", "Size of the responses in the store.", lambda counts: counts.num_bytes),
)

_COUNTERS: Sequence[tuple[str, str, Callable[[StoreCounts], int]]] = (
    ("llamafast:responses_store_hits", "Responses that were read from the store.", lambda counts: counts.num_hits),
    ("llamafast:responses_store_misses", "Ids that the store does not have.", lambda counts: counts.num_misses),
    ("llamafast:responses_store_evictions", "Responses removed to make room.", lambda counts: counts.num_evicted),
    ("llamafast:responses_store_expired", "Responses removed after their time.", lambda counts: counts.num_expired),
    ("llamafast:responses_store_refused", "Responses too large for the store.", lambda counts: counts.num_refused),
)


class StoreCollector(Collector):
    """Reads the counts of a store at each scrape."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Each family once."""
        counts = self._store.counts
        for name, text, read in _GAUGES:
            yield GaugeMetricFamily(name, text, value=read(counts))
        for name, text, read in _COUNTERS:
            yield CounterMetricFamily(name, text, value=read(counts))
        failures = "Errors of the database."
        yield CounterMetricFamily("llamafast:responses_store_failures", failures, value=self._store.num_failures)
