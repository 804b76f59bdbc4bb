"""Sounds: from the bytes of a file to samples."""

from __future__ import annotations

import array
import math

import miniaudio

from llamafast.errors import InvalidRequestError
from llamafast.media.limits import MediaLimits

FORMATS = ("wav", "mp3", "flac", "ogg")

_FRAMES = 65_536  # decoded at once


def decode_audio(
    data: bytes, param: str, limits: MediaLimits, sample_rate: int, min_samples: int
) -> array.array[float]:
    """The samples of a sound, one channel, at the given rate, as array('f').

    min_samples: what a projector needs. Raises InvalidRequestError, naming `param`: for another format, for one that is
    too long or too short, and for numbers that are not finite.
    """
    if _kind(data) is None:
        raise _refused(param, f"it must be one of {', '.join(FORMATS)}")
    most = int(limits.max_audio_s * sample_rate)
    samples = array.array("f")
    try:
        stream = miniaudio.stream_memory(
            data, miniaudio.SampleFormat.FLOAT32, nchannels=1, sample_rate=sample_rate, frames_to_read=_FRAMES
        )
        for piece in stream:
            samples.extend(piece)
            if len(samples) > most:
                raise _refused(param, f"it is longer than {limits.max_audio_s:g} seconds")
    except (miniaudio.MiniaudioError, ValueError, MemoryError, OverflowError) as exc:
        raise _refused(param, "it is damaged") from exc
    if len(samples) < min_samples:
        raise _refused(param, f"it is shorter than {min_samples / sample_rate:g} seconds")
    if not math.isfinite(sum(samples)) and not all(map(math.isfinite, samples)):
        raise _refused(param, "some of its samples are not finite numbers")
    return samples


def _kind(data: bytes) -> str | None:
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return "mp3"
    return None


def _refused(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: the sound cannot be used: {why}", param=param, code="invalid_audio")
