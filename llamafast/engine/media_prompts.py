"""Images and sounds as parts of prompts: how many rows they take, and the digests by which they are compared."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from hashlib import blake2b

from llamafast._core import libllama_version
from llamafast._mtmd import MIN_AUDIO_S, MediaChunk, Projector
from llamafast.cache.prompt import MediaSpan
from llamafast.engine.media_encoder import span_digest
from llamafast.engine.state_key import fingerprint
from llamafast.errors import InvalidRequestError
from llamafast.request import MediaContent

PromptPart = tuple[int, ...] | MediaSpan


class MediaPrompts:
    """Turns decoded images and sounds into parts of prompts. Any thread may call its methods.

    projector: encodes them later. settings: what else determines the embeddings, as text. max_whole_rows: rows of a
    chunk that has to be computed in one pass.
    sees, hears: whether prompts may have images, sounds. sample_rate: of sounds, in Hz. min_samples: of a sound.
    """

    def __init__(self, projector: Projector, settings: str, max_whole_rows: int) -> None:
        self.sees, self.hears = projector.sees, projector.hears
        self.sample_rate = projector.sample_rate
        self.min_samples = int(MIN_AUDIO_S * projector.sample_rate) + 1
        self._projector = projector
        self._max_whole_rows = max_whole_rows
        # What is equal under this key has equal embeddings.
        self._key = f"{fingerprint(projector.path)} {libllama_version()} {settings}".encode()

    def image(self, width: int, height: int, rgb: bytes, read_rgb: Callable[[], bytes] | None = None) -> MediaContent:
        """An image as content of a prompt. rgb: shape (height, width, 3), one byte each.

        read_rgb: gives these bytes again, so that the content need not keep them; None: it keeps them.
        """
        digest = self._digest(b"image", struct.pack("<II", width, height), rgb)
        return MediaContent(digest, width=width, height=height, read_rgb=read_rgb or (lambda: rgb))

    def audio(self, samples: array[float]) -> MediaContent:
        """A sound as content of a prompt. samples: array('f'), one channel at sample_rate."""
        return MediaContent(self._digest(b"audio", b"", samples.tobytes()), samples=samples)

    def parts(self, content: MediaContent) -> list[PromptPart]:
        """The parts that a content becomes: token ids around and between its spans. Nothing is encoded.

        Raises InvalidRequestError.
        """
        projector = self._projector
        media = (
            projector.image(content.width, content.height)
            if content.samples is None
            else projector.audio(content.samples)
        )
        return [self._span(content, part) if isinstance(part, MediaChunk) else part for part in media.parts]

    def _span(self, content: MediaContent, chunk: MediaChunk) -> MediaSpan:
        if not chunk.is_causal and chunk.n_rows > self._max_whole_rows:
            raise InvalidRequestError(
                f"the file takes {chunk.n_rows} rows in one pass; n_ubatch allows {self._max_whole_rows}"
            )
        return MediaSpan(0, chunk.n_rows, chunk.n_pos, chunk.last_t_offset, span_digest(content, chunk.number))

    def _digest(self, *pieces: bytes) -> bytes:
        found = blake2b(self._key, digest_size=32)
        for piece in pieces:
            found.update(struct.pack("<Q", len(piece)))
            found.update(piece)
        return found.digest()
