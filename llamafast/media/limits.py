"""How much media one request may bring, and what a piece of it may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Limits of media. All sizes are of the encoded files unless said otherwise.

    max_images, max_audios, max_videos: pieces of each kind in one request. max_image_bytes, max_audio_bytes,
    max_video_bytes: of one file. max_request_bytes: of all files of a request. max_pixels: of one decoded image.
    max_ratio: longer side by shorter side. max_audio_s: seconds of one sound. fetch_timeout_s: seconds for one fetch,
    from the first name lookup to the last byte.
    """

    max_images: int = 16
    max_audios: int = 4
    max_videos: int = 1
    max_image_bytes: int = 20 * 2**20
    max_audio_bytes: int = 50 * 2**20
    max_video_bytes: int = 100 * 2**20
    max_request_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000
    max_ratio: float = 200.0
    max_audio_s: float = 600.0
    fetch_timeout_s: float = 10.0

    def max_bytes(self, kind: str) -> int:
        """Of one file of this kind: `image`, `audio` or `video`."""
        return {"image": self.max_image_bytes, "audio": self.max_audio_bytes, "video": self.max_video_bytes}[kind]

    def max_pieces(self, kind: str) -> int:
        """In one request."""
        return {"image": self.max_images, "audio": self.max_audios, "video": self.max_videos}[kind]
