"""The façade over libmtmd. Nothing outside calls mtmd.h."""

from array import array
from dataclasses import dataclass

from llamafast._core import Model

MIN_AUDIO_S: float

@dataclass(frozen=True)
class MediaChunk:
    """Rows of embeddings that one encoding gives.

    number: its place among all chunks of its Media, texts included.
    n_rows, n_pos: rows and positions, as in MediaSpan.
    offsets: shape (3, n_rows): the positions t, y and x of each row of an image under M-RoPE, minus t of the first row.
        None: the rows take consecutive positions.
    is_causal: whether a row of the chunk attends only to the rows before it.
    """

    number: int
    n_rows: int
    n_pos: int
    offsets: array[int] | None
    is_causal: bool
    @property
    def last_t_offset(self) -> int:
        """As in MediaSpan."""

class Media:
    """One image or sound, cut into chunks. Projector makes it."""

    projector: Projector
    parts: tuple[tuple[int, ...] | MediaChunk, ...]  # token ids of texts, and chunks, in the order of the prompt
    has_data: bool  # False: only the sizes are known
    @property
    def chunks(self) -> list[MediaChunk]:
        """The MediaChunks of parts."""

class Projector:
    """Encodes images and sounds for a Model. Raises ModelLoadError.

    Any thread may call image() and audio(), several at once. encode() is for one thread at a time.
    """

    model: Model
    path: str
    sees: bool
    hears: bool
    uses_mrope: bool
    sample_rate: int  # of sounds, in Hz; 0: it does not hear
    def __init__(
        self,
        model: Model,
        path: str,
        *,
        threads: int = 1,
        image_min_tokens: int | None = None,
        image_max_tokens: int | None = None,
        use_gpu: bool | None = None,
        flash_attn: bool | None = None,
        warmup: bool = False,
    ) -> None: ...
    def image(self, width: int, height: int, rgb: bytes | None = None) -> Media:
        """The chunks of an image. rgb None: only the sizes are wanted. Raises InvalidRequestError."""
    def audio(self, samples: array[float]) -> Media:
        """The chunks of a sound, one channel at sample_rate. Raises InvalidRequestError."""
    def encode(self, media: Media, chunk: MediaChunk) -> array[float]:
        """The embeddings of a chunk, shape (n_rows, n_embd_inp). Raises InvalidRequestError, RequestFailedError."""

def live_handles() -> dict[str, int]: ...
