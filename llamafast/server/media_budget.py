"""A limit on the memory that the images and sounds of all requests take while the requests run or wait."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from llamafast.errors import QueueFullError

MAX_HELD_BYTES = 512 * 2**20


class MediaBudget:
    """Counts held bytes and refuses more than max_bytes of them. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = Lock()
        self._num_bytes = 0
        # A finalizer may run inside hold(), on its thread. So it only appends, and never takes the lock.
        self._released: deque[int] = deque()

    @property
    def num_bytes(self) -> int:
        """The bytes that are held now."""
        with self._lock:
            self._settle()
            return self._num_bytes

    def hold(self, owner: object, num_bytes: int) -> None:
        """Count num_bytes until `owner` is freed. Raises QueueFullError."""
        self._add(num_bytes)
        weakref.finalize(owner, self._released.append, num_bytes).atexit = False

    @contextmanager
    def holding(self, num_bytes: int) -> Iterator[None]:
        """Count num_bytes inside the context. Raises QueueFullError."""
        self._add(num_bytes)
        try:
            yield
        finally:
            self._released.append(num_bytes)

    def _add(self, num_bytes: int) -> None:
        with self._lock:
            self._settle()
            if self._num_bytes + num_bytes > self.max_bytes:
                raise QueueFullError(
                    "the requests at work hold too many images and sounds; try again later", retry_after=1.0
                )
            self._num_bytes += num_bytes

    def _settle(self) -> None:
        while self._released:
            self._num_bytes -= self._released.popleft()
