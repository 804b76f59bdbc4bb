"""How a projector is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProjectorSettings:
    """How a projector is loaded and how much of its work is kept.

    image_min_tokens, image_max_tokens: rows of an image, 1 to 16384; None: as the file says. threads: of an encoding;
    0: half of the engine's. use_gpu: None: libmtmd decides. max_cache_bytes: embeddings kept in memory.
    """

    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    threads: int = 0
    use_gpu: bool | None = None
    max_cache_bytes: int = 256 * 2**20

    @property
    def key(self) -> str:
        """What of it determines embeddings."""
        return f"{self.image_min_tokens} {self.image_max_tokens}"
