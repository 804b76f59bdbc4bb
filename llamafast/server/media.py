"""From the media in a request to decoded contents and the parts of the prompt that they become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from llamafast.engine.media_prompts import MediaPrompts
from llamafast.errors import InvalidRequestError
from llamafast.media.audio import decode_audio
from llamafast.media.images import decode_image
from llamafast.media.inline import base64_bytes, data_url_bytes, is_data_url
from llamafast.media.limits import MediaLimits
from llamafast.media.local import read_file_url
from llamafast.media.remote import RemoteMedia
from llamafast.server.chat.media import LoadedMedia, MediaPart
from llamafast.server.media_budget import MediaBudget

T = TypeVar("T")

# Pixels of an image that a client wants in low resolution, and of any other one: projectors scale it further down.
_SMALL_PIXELS = 512 * 512
_MAX_PIXELS = 16_000_000

# Bytes of an image's pixels that a waiting request keeps.
_MAX_KEPT_BYTES = 2**20

_NUM_THREADS = 2

# Files that are fetched or decoded at the same time, for all requests.
_MAX_LOADS = 8


class _Pixels:
    """Gives the pixels of an image. The memory that it keeps is counted while it exists."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read

    def __call__(self) -> bytes:
        return self._read()


class MediaLoader:
    """Loads and decodes the media of requests.

    prompts: the model's. remote: fetches URLs; None: no URL is fetched. root: the folder of `file:` URLs; None: none
    is read.
    """

    def __init__(
        self, prompts: MediaPrompts, limits: MediaLimits, remote: RemoteMedia | None, root: Path | None
    ) -> None:
        self._prompts = prompts
        self._limits = limits
        self._remote = remote
        self._root = root
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "llamafast-media")
        self._loads = asyncio.Semaphore(_MAX_LOADS)
        self.budget = MediaBudget()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the model takes beside text: `image`, `audio`."""
        return ("image",) * self._prompts.sees + ("audio",) * self._prompts.hears

    def check(self, parts: Sequence[MediaPart]) -> None:
        """Refuse kinds that the model does not take, and too many pieces. Raises InvalidRequestError."""
        check_kinds(parts, self.kinds)
        for kind in self.kinds:
            most = self._limits.max_pieces(kind)
            for part in [part for part in parts if part.kind == kind][most:]:
                raise InvalidRequestError(
                    f"{part.param}: a request may have {most} of this kind", param=part.param, code="too_many_media"
                )

    async def load(self, parts: Sequence[MediaPart]) -> list[LoadedMedia]:
        """The media, in the order of parts. Equal sources are loaded once.

        Raises InvalidRequestError, naming the part, and QueueFullError.
        """
        self.check(parts)
        with self.budget.holding(sum(len(part.source) for part in parts)):
            return await self._load(parts)

    async def _load(self, parts: Sequence[MediaPart]) -> list[LoadedMedia]:
        found: dict[tuple[str, str, bool], LoadedMedia] = {}
        num_bytes = 0
        for part in parts:
            key = (part.kind, part.source, part.is_small)
            if key in found:
                continue
            async with self._loads:
                data = await self._bytes_of(part)
                num_bytes += len(data)
                if num_bytes > self._limits.max_request_bytes:
                    most = self._limits.max_request_bytes
                    raise InvalidRequestError(
                        f"{part.param}: all files of a request have more than {most} bytes",
                        param=part.param,
                        code="media_too_large",
                    )
                found[key] = await self._in_thread(partial(self._decoded, part, data))
        return [found[part.kind, part.source, part.is_small] for part in parts]

    async def _bytes_of(self, part: MediaPart) -> bytes:
        source, param, most = part.source, part.param, self._limits.max_bytes(part.kind)
        head = source[:8].lower()
        if is_data_url(source):
            return await self._in_thread(partial(data_url_bytes, source, param, most))
        if head.startswith("file:"):
            if self._root is None:
                raise _refused(param, "files of this machine are not read here")
            return await self._in_thread(partial(read_file_url, source, self._root, param, most))
        if ":" not in source[:4096] and source:
            return await self._in_thread(partial(base64_bytes, source, param, most))
        if self._remote is None:
            raise _refused(param, "URLs are not fetched here")
        return await self._remote.fetch(source, param, most)

    def _decoded(self, part: MediaPart, data: bytes) -> LoadedMedia:
        prompts = self._prompts
        try:
            if part.kind == "audio":
                samples = decode_audio(data, part.param, self._limits, prompts.sample_rate, prompts.min_samples)
                self.budget.hold(samples, len(samples) * samples.itemsize)
                content = prompts.audio(samples)
            else:
                most = _SMALL_PIXELS if part.is_small else _MAX_PIXELS
                decode = partial(decode_image, data, part.param, self._limits, most)
                pixels = decode()
                # A request may wait for long. While it does, it keeps the file instead of many pixels.
                keeps_file = len(pixels.rgb) > _MAX_KEPT_BYTES
                read_rgb = _Pixels((lambda: decode().rgb) if keeps_file else partial(bytes, pixels.rgb))
                self.budget.hold(read_rgb, len(data) if keeps_file else len(pixels.rgb))
                content = prompts.image(pixels.width, pixels.height, pixels.rgb, read_rgb)
            return LoadedMedia(part.kind, content, prompts.parts(content))
        except InvalidRequestError as error:
            if error.param is None:
                raise _refused(part.param, error.message) from error
            raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def check_kinds(parts: Sequence[MediaPart], kinds: Sequence[str]) -> None:
    """Refuse media of other kinds than these. Raises InvalidRequestError, naming the first such part."""
    for part in parts:
        if part.kind not in kinds:
            what = {"image": "images", "audio": "sounds"}[part.kind]
            raise InvalidRequestError(
                f"{part.param}: this model takes no {what}", param=part.param, code="unsupported_content"
            )


def _refused(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: the file cannot be used: {why}", param=param, code="invalid_image_url")
