"""Images: from the bytes of a file to pixels."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageOps

from llamafast.errors import InvalidRequestError
from llamafast.media.limits import MediaLimits

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")

# Magic bytes, so that no other reader of Pillow's is ever asked.
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")

_FAILURES = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, MemoryError, OverflowError, struct.error, TypeError,
    KeyError, IndexError, ZeroDivisionError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image: rows of RGB, top to bottom. rgb: shape (height, width, 3), one byte each."""

    width: int
    height: int
    rgb: bytes


def image_size(data: bytes, param: str, limits: MediaLimits) -> tuple[int, int]:
    """Width and height as they will be after decode_image(), from the file's header. Raises InvalidRequestError."""
    with _opened(data, param, limits) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except _FAILURES:
            turned = False
    return (height, width) if turned else (width, height)


def decode_image(data: bytes, param: str, limits: MediaLimits, max_pixels: int | None = None) -> Pixels:
    """The first frame of an image, upright, on white. max_pixels: it is scaled down to that many, None: it is not.

    Holds no GIL for most of its time. Raises InvalidRequestError, naming `param`.
    """
    with _opened(data, param, limits) as image:
        try:
            return _decoded(image, max_pixels)
        except _FAILURES as exc:
            raise _refused(param, "it is damaged") from exc


def _opened(data: bytes, param: str, limits: MediaLimits) -> Image.Image:
    if not data.startswith(_MAGIC) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise _refused(param, f"it must be one of {', '.join(FORMATS)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=FORMATS)
    except _FAILURES as exc:
        raise _refused(param, "it is damaged or too large") from exc
    width, height = image.size
    if width < 1 or height < 1 or width * height > limits.max_pixels:
        raise _refused(param, f"it has {width} x {height} pixels; at most {limits.max_pixels} are taken")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise _refused(param, f"one side is more than {limits.max_ratio:g} times as long as the other")
    return image


def _decoded(image: Image.Image, max_pixels: int | None) -> Pixels:
    target = _fitted(image.size, max_pixels)
    if image.format == "JPEG":
        image.draft("RGB", target)
    image.seek(0)
    image.load()
    upright = ImageOps.exif_transpose(image)
    flat = _on_white(upright)
    target = _fitted(flat.size, max_pixels)
    if target != flat.size:
        flat = flat.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Pixels(flat.width, flat.height, flat.tobytes())


def _fitted(size: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    width, height = size
    if max_pixels is None or width * height <= max_pixels:
        return size
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits: convert() would cut them off at 255
        scaled = image.convert("I").point(lambda value: value * (1 / 257))
        return scaled.convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _refused(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: the image cannot be used: {why}", param=param, code="invalid_image")
