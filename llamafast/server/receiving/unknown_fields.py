"""Counts request fields that the server does not know: in /metrics, and with one log line per name."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter

logger = logging.getLogger("llamafast.server")

# Clients choose the names, so the number of labels is limited. Further names share one label.
_MAX_NAMES = 100
_MAX_NAME_CHARS = 64


class UnknownFields:
    """Counts the uses of each unknown field."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "llamafast:unknown_request_fields", "Request fields the server does not know.", ["field"], registry=registry
        )
        self._names: set[str] = set()

    def note(self, name: str) -> None:
        """Count one use of the field `name`."""
        label = name[:_MAX_NAME_CHARS]
        if label not in self._names:
            if len(self._names) < _MAX_NAMES:
                self._names.add(label)
                logger.warning("unknown request field %r is ignored (logged once)", label)
            else:
                label = "other"
        self._counter.labels(label).inc()
