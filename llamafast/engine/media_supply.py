"""The embeddings of the prompts that are being computed: wanted in time, put into batches, and let go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from llamafast._core import MediaBatch
from llamafast.cache.prompt import MediaSpan
from llamafast.engine.media_encoder import EncodedRows, EncoderJob, MediaEncoder
from llamafast.engine.sequence import Sequence
from llamafast.errors import LlamaFastError, RequestFailedError

# Spans of one prompt that are encoded, or wait for it: the next one, and one more while that one is computed.
_NUM_AHEAD = 2


class MediaSupply:
    """What the planner needs of media. batch: the rows of a step of media."""

    def __init__(self, encoder: MediaEncoder, batch: MediaBatch) -> None:
        self.encoder = encoder
        self.batch = batch
        self._jobs: dict[Sequence, dict[bytes, EncoderJob]] = {}

    @property
    def is_encoding(self) -> bool:
        """Whether an encoding has not ended."""
        return self.encoder.is_busy

    def on_end(self, call: Callable[[], None]) -> None:
        """Have `call` called, from another thread, after each encoding."""
        self.encoder.call_on_end(call)

    def wait(self) -> None:
        """Wait until an encoding ends, if one runs."""
        self.encoder.wait()

    def refresh(self, prompts: Iterable[Sequence]) -> list[tuple[Sequence, LlamaFastError]]:
        """Have encoded what these prompts, and no others, need next; those of them of which the encoding failed."""
        before, self._jobs = self._jobs, {}
        failed = []
        for sequence in prompts:
            if not sequence.layout.media:
                continue
            jobs = self._jobs[sequence] = self._wanted(sequence, before.get(sequence, {}))
            error = next((job.error for job in jobs.values() if job.error is not None), None) or self._fault(sequence)
            if error is not None:
                failed.append((sequence, error))
        return failed

    def clear(self) -> None:
        """Empty the batch for a new step."""
        self.batch.clear()

    def is_ready(self, sequence: Sequence) -> bool:
        """Whether the next row of a prompt is a media row that can be computed."""
        span = sequence.layout.span_at(sequence.slot.length)
        return span is not None and self._encoded(sequence, span) is not None

    def is_causal(self, sequence: Sequence) -> bool:
        """Whether the rows that come next, which are ready, may be computed in parts."""
        return self._next(sequence)[1].is_causal

    def extend(self, sequence: Sequence, num_rows: int) -> int:
        """Put the next rows of a prompt, which are ready, into the batch; the number of the last one."""
        span, encoded = self._next(sequence)
        slot = sequence.slot
        start, pos = slot.length - span.start, sequence.position(span.start)
        return self.batch.extend(
            encoded.rows, encoded.offsets, start, start + num_rows, pos, slot.seq_id, encoded.is_causal
        )

    def close(self) -> None:
        """End the encoder."""
        self._jobs.clear()
        self.encoder.close()

    def _wanted(self, sequence: Sequence, before: Mapping[bytes, EncoderJob]) -> dict[bytes, EncoderJob]:
        """By the digest of each content that is needed next, its job."""
        wanted: dict[bytes, EncoderJob] = {}
        request, length, num_spans = sequence.state.request, sequence.slot.length, 0
        for span, content in zip(request.media, request.contents, strict=True):
            if span.end <= length:
                continue
            if content.digest not in wanted:
                wanted[content.digest] = before.get(content.digest) or self.encoder.want(content)
            num_spans += 1
            if num_spans == _NUM_AHEAD:
                break
        return wanted

    def _fault(self, sequence: Sequence) -> LlamaFastError | None:
        """What is wrong with the embeddings of the next span; None: nothing, or there are none yet."""
        span = sequence.layout.span_at(sequence.slot.length)
        if span is None:
            return None
        jobs = self._jobs[sequence].values()
        encoded = self._encoded(sequence, span)
        if encoded is None and any(job.encoded is None for job in jobs):
            return None
        if encoded is not None and len(encoded.rows) == span.n_rows * self.batch.n_embd:
            return None
        return RequestFailedError("the projector has given other rows than it announced")

    def _encoded(self, sequence: Sequence, span: MediaSpan) -> EncodedRows | None:
        for job in self._jobs.get(sequence, {}).values():
            if job.encoded is not None and span.digest in job.encoded:
                return job.encoded[span.digest]
        return None

    def _next(self, sequence: Sequence) -> tuple[MediaSpan, EncodedRows]:
        span = sequence.layout.span_at(sequence.slot.length)
        encoded = None if span is None else self._encoded(sequence, span)
        assert span is not None and encoded is not None, "the rows are not ready"
        return span, encoded
