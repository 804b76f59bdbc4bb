"""Embeddings of images and sounds: computed on a thread of their own, each content once, and kept for later prompts."""

from __future__ import annotations

import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from queue import SimpleQueue
from typing import NamedTuple
from weakref import WeakValueDictionary, ref

from llamafast._mtmd import Media, Projector
from llamafast.engine.metrics import MediaStats
from llamafast.errors import LlamaFastError, RequestFailedError, request_failure
from llamafast.request import MediaContent

_FLOAT_BYTES = 4


class EncodedRows(NamedTuple):
    """The embeddings of a media span.

    rows: array('f'), shape (n_rows, width of the model). offsets: the positions of its rows, as in MediaChunk.
    is_causal: whether a row attends only to the rows before it.
    """

    rows: array[float]
    offsets: array[int] | None
    is_causal: bool


Encoded = Mapping[bytes, EncodedRows]
"""By the digest of each span of a content, its embeddings."""


def span_digest(content: MediaContent, number: int) -> bytes:
    """The digest of the span that chunk `number` of a content becomes."""
    return blake2b(content.digest + number.to_bytes(4, "little"), digest_size=32).digest()


class EncoderJob:
    """One encoding that somebody waits for. It is dropped when nobody holds it any more.

    content: what is encoded. encoded: the result. error: why there is none. Both are None until it has ended.
    """

    __slots__ = ("__weakref__", "content", "encoded", "error")

    def __init__(self, content: MediaContent, encoded: Encoded | None = None) -> None:
        self.content = content
        self.encoded = encoded
        self.error: LlamaFastError | None = None

    @property
    def has_ended(self) -> bool:
        """Whether there is a result or an error."""
        return self.encoded is not None or self.error is not None


class MediaEncoder:
    """Encodes one content after the other, in the order in which they are wanted.

    Equal contents that are wanted at the same time are encoded once. Results stay, up to max_bytes of them; the least
    recently used ones go. Whoever holds a job keeps its result, whatever max_bytes says. All methods but those of the
    thread belong to the engine's thread.
    """

    def __init__(self, projector: Projector, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.stats = MediaStats()
        self._on_end: Callable[[], None] | None = None
        self._projector = projector
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._jobs: WeakValueDictionary[bytes, EncoderJob] = WeakValueDictionary()
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._queue: SimpleQueue[ref[EncoderJob] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job has not ended. If so, call_on_end()'s call is still to come."""
        return self.stats.num_waiting > 0

    def want(self, content: MediaContent) -> EncoderJob:
        """The job of a content: one that has ended, one that runs already, or a new one."""
        with self._lock:
            kept = self._kept.get(content.digest)
            if kept is not None:
                self._kept.move_to_end(content.digest)
                self.stats.num_hits += 1
                return EncoderJob(content, kept)
            job = self._jobs.get(content.digest)
            if job is not None and job.error is None:
                return job
            job = self._jobs[content.digest] = EncoderJob(content)
            self.stats.num_waiting += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="llamafast-encoder", daemon=True)
            self._thread.start()
        self._queue.put(ref(job))
        return job

    def call_on_end(self, call: Callable[[], None]) -> None:
        """Have `call` called on the encoder's thread after each job. Before the first job."""
        self._on_end = call

    def wait(self) -> None:
        """Wait until a job ends, if there is one."""
        with self._ended:
            before = self.stats.num_waiting
            self._ended.wait_for(lambda: self.stats.num_waiting < before or not before)

    def close(self) -> None:
        """End the thread, after the encoding that runs, and forget everything."""
        if self._thread is not None:
            while not self._queue.empty():
                self._queue.get()
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._kept.clear()
        self.stats.num_bytes = 0

    def _run(self) -> None:
        while (reference := self._queue.get()) is not None:
            job = reference()
            if job is not None:
                self._encode(job)
            del job
            with self._ended:
                self.stats.num_waiting -= 1
                self._ended.notify_all()
            if self._on_end is not None:
                self._on_end()

    def _encode(self, job: EncoderJob) -> None:
        encoded: dict[bytes, EncodedRows] = {}
        start_s = time.monotonic()
        try:
            media = cut(self._projector, job.content)
            for chunk in media.chunks:
                rows = self._projector.encode(media, chunk)
                digest = span_digest(job.content, chunk.number)
                encoded[digest] = EncodedRows(rows, chunk.offsets, chunk.is_causal)
        except Exception as error:
            failure = request_failure(error)
            self.stats.num_failed += 1
            job.error = RequestFailedError(failure.message) if failure.status >= 500 else failure
            return
        with self._lock:
            self.stats.num_encoded += 1
            self.stats.encode_s += time.monotonic() - start_s
            self.stats.num_rows += sum(chunk.n_rows for chunk in media.chunks)
            self._keep(job.content.digest, encoded)
            job.encoded = encoded

    def _keep(self, digest: bytes, encoded: Encoded) -> None:
        size = _size(encoded)
        if size > self.max_bytes or digest in self._kept:
            return
        self._kept[digest] = encoded
        self.stats.num_bytes += size
        while self.stats.num_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.stats.num_bytes -= _size(dropped)


def cut(projector: Projector, content: MediaContent) -> Media:
    """The content as chunks, ready to be encoded."""
    if content.samples is not None:
        return projector.audio(content.samples)
    return projector.image(content.width, content.height, content.read_rgb())


def _size(encoded: Encoded) -> int:
    return sum(len(rows.rows) for rows in encoded.values()) * _FLOAT_BYTES
