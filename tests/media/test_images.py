"""Images as pixels: what is taken, what is refused, and that colours come out as they are shown."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from llamafast.errors import InvalidRequestError
from llamafast.media.images import decode_image, image_size
from llamafast.media.limits import MediaLimits

LIMITS = MediaLimits()


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def corner(data: bytes) -> tuple[int, ...]:
    return tuple(decode_image(data, "p", LIMITS).rgb[:3])


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_image_of_each_format_has_its_size_and_colour(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(Image.new("RGB", (30, 20), (255, 0, 0)), kind, **options)
    pixels = decode_image(data, "p", LIMITS)
    assert (pixels.width, pixels.height, len(pixels.rgb)) == (30, 20, 1800)
    assert all(abs(a - b) < 3 for a, b in zip(pixels.rgb[:3], (255, 0, 0), strict=True))
    assert image_size(data, "p", LIMITS) == (30, 20)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_image_with_transparency_lies_on_white(mode):
    clear = Image.new(mode, (4, 4), 0)
    assert corner(file_of(clear)) == (255, 255, 255)


def test_image_with_a_transparent_palette_entry_lies_on_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert corner(file_of(image, transparency=0)) == (255, 255, 255)
    assert corner(file_of(image)) == (10, 20, 30)


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (257 * 100, 100), (65535, 255)])
def test_image_of_16_bits_is_scaled(value, shown):
    assert corner(file_of(Image.new("I;16", (4, 4), value))) == (shown,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_image_of_another_mode_is_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert len(decode_image(file_of(Image.new(mode, (5, 4)), kind), "p", LIMITS).rgb) == 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_its_camera_says(orientation):
    upright = Image.new("RGB", (6, 4), (255, 255, 255))
    upright.paste((0, 0, 0), (0, 0, 3, 2))  # dark at the top on the left
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(stored, exif=exif)
    pixels = decode_image(data, "p", LIMITS)
    assert (pixels.width, pixels.height, pixels.rgb) == (6, 4, upright.tobytes())
    assert image_size(data, "p", LIMITS) == (6, 4)


def test_image_that_moves_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))] * 20
    assert corner(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0] == 255


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_image_is_scaled_down_to_a_number_of_pixels(kind):
    pixels = decode_image(file_of(Image.new("RGB", (400, 200), (9, 99, 199)), kind), "p", LIMITS, max_pixels=800)
    assert (pixels.width, pixels.height) == (40, 20)
    assert all(abs(a - b) < 4 for a, b in zip(pixels.rgb[:3], (9, 99, 199), strict=True))


def test_image_with_data_behind_it_is_the_image():
    assert corner(file_of(Image.new("RGB", (4, 4), (1, 2, 3))) + b"PK\x03\x04" * 100) == (1, 2, 3)


WHOLE = {
    kind: file_of(Image.effect_noise((64, 64), 90).convert("RGB"), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")
}
DAMAGED = {
    "empty": b"",
    "one byte": b"\x89",
    **{f"{kind}'s first bytes": data[:12] for kind, data in WHOLE.items()},
    **{f"half of a {kind}": data[: len(data) // 2] for kind, data in WHOLE.items()},
    "65535 x 65535": png(65535, 65535, b"x" * 100),
    "2^31 x 1": png(2**31 - 1, 1),
    "no height": png(0, 10),
    "20000 x 20000": png(20000, 20000, zlib.compress(bytes(1000))),
    "1 x 5000": file_of(Image.new("RGB", (1, 5000))),
    "5000 x 1": file_of(Image.new("RGB", (5000, 1))),
    "a screen of 65535 x 65535": b"GIF89a"
    + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    + b"\x2c"
    + bytes(9)
    + b"\x02\x00;",
    "TIFF": file_of(Image.new("RGB", (4, 4)), "TIFF"),
    "ICO": file_of(Image.new("RGB", (32, 32)), "ICO"),
    "PPM": b"P6 4 4 255 " + bytes(48),
    "PSD": b"8BPS\x00\x01" + bytes(100),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.7\n",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n",
    "text": b"hello",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_file_that_is_no_image_or_too_large_is_refused_by_name(data):
    with pytest.raises(InvalidRequestError) as caught:
        decode_image(data, "messages[0].content[1]", LIMITS)
    assert (caught.value.param, caught.value.code) == ("messages[0].content[1]", "invalid_image")


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (32, 6400)])
def test_image_of_an_odd_shape_is_taken(size):
    assert len(decode_image(file_of(Image.new("RGB", size)), "p", LIMITS).rgb) == size[0] * size[1] * 3


@pytest.mark.parametrize("name", [b"iTXt", b"zTXt", b"iCCP"])
def test_image_with_a_bomb_in_its_notes_costs_little(name):
    packed = zlib.compress(bytes(80_000_000), 9)
    data = {b"iTXt": b"k\0\1\0\0\0", b"zTXt": b"k\0\0", b"iCCP": b"k\0\0"}[name] + packed
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    body = zlib.compress(b"\0" + bytes(12) + b"\0" + bytes(12))
    try:
        decode_image(png(4, 2, body, chunk), "p", LIMITS)
    except InvalidRequestError as error:
        assert error.code == "invalid_image"
