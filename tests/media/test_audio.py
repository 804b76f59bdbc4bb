"""Sounds as samples."""

from __future__ import annotations

import math
import struct

import pytest

from llamafast.errors import InvalidRequestError
from llamafast.media.audio import decode_audio
from llamafast.media.limits import MediaLimits

LIMITS = MediaLimits(max_audio_s=5.0)


def wav(
    samples: bytes, *, rate: int = 16000, channels: int = 1, bits: int = 16, kind: int = 1, size: int | None = None
) -> bytes:
    step = channels * bits // 8
    header = struct.pack("<HHIIHH", kind, channels, rate, rate * step, step, bits)
    body = (
        b"fmt "
        + struct.pack("<I", 16)
        + header
        + b"data"
        + struct.pack("<I", len(samples) if size is None else size)
        + samples
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def tone(seconds: float, rate: int = 16000) -> bytes:
    return b"".join(
        struct.pack("<h", int(20000 * math.sin(2 * math.pi * 440 * i / rate))) for i in range(int(seconds * rate))
    )


def decode(data: bytes, **changes):
    return decode_audio(data, "p", LIMITS, changes.get("rate", 16000), changes.get("least", 320))


def test_sound_has_its_samples():
    samples = decode(wav(tone(0.5)))
    assert len(samples) == 8000
    assert max(samples) == pytest.approx(20000 / 32768, abs=0.01)


@pytest.mark.parametrize(("rate", "channels", "bits"), [(8000, 1, 16), (192000, 2, 16), (44100, 8, 16), (22050, 1, 24)])
def test_sound_of_another_rate_is_resampled_to_one_channel(rate, channels, bits):
    data = wav(bytes(rate // 2 * channels * bits // 8), rate=rate, channels=channels, bits=bits)
    assert len(decode(data)) == pytest.approx(8000, abs=8)


BAD = {
    "empty": b"",
    "magic alone": b"RIFF\x00\x00\x00\x00WAVE",
    "no sample": wav(b""),
    "one sample": wav(b"\0\0"),
    "319 samples": wav(bytes(638)),
    "too long": wav(bytes(16000 * 2 * 6)),
    "no channels": wav(bytes(4000), channels=0),
    "no rate": wav(bytes(4000), rate=0),
    "NaN": wav(struct.pack("<f", float("nan")) * 4000, bits=32, kind=3),
    "infinite": wav(struct.pack("<f", float("inf")) * 4000, bits=32, kind=3),
    "a promise of 4 GB in 44 bytes": wav(b"", size=0xFFFFFFFF),
    "FLAC's first bytes": b"fLaC" + bytes(40),
    "Ogg's first bytes": b"OggS" + bytes(60),
    "MP3 of noise": b"\xff\xfb" + bytes(range(256)) * 4,
    "MP4": b"\0\0\0\x18ftypmp42" + bytes(64),
    "playlist": b"#EXTM3U\nfile:///etc/passwd\n",
    "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_file_that_is_no_sound_is_refused_by_name(data):
    with pytest.raises(InvalidRequestError) as caught:
        decode(data)
    assert (caught.value.param, caught.value.code) == ("p", "invalid_audio")
