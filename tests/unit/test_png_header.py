"""Headers of PNG files, against Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from components.image_example_gen.png_header import size_of_plain_png


def png(mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(7 * 5, dtype=np.uint8).reshape(5, 7)).convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_chunk(kind, content):
    """Adds a chunk behind the header of a file."""
    chunk = kind + content
    encoded = png()
    return encoded[:33] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + encoded[33:]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_ordinary_files(mode):
    assert size_of_plain_png(png(mode)) == (7, 5)
    assert size_of_plain_png(png(mode, dpi=(300, 300))) == (7, 5)
    assert size_of_plain_png(with_chunk(b"gAMA", bytes(4))) == (7, 5)


def test_what_needs_attention_is_not_plain():
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 10)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = {"save_all": True, "append_images": [Image.new("RGB", (7, 5), "red")]}
    for special in (
        png("P"),
        png(icc_profile=profile),
        png(pnginfo=text),
        png(**frames),
        with_chunk(b"eXIf", b"II*\0"),
        with_chunk(b"PLTE", bytes(3)),
    ):
        with Image.open(io.BytesIO(special)) as image:
            assert image.size == (7, 5)
        assert size_of_plain_png(special) is None
    assert size_of_plain_png(with_chunk(b"gAMA", bytes(3))) is None


def test_a_damaged_header_is_not_plain():
    encoded = png()
    end = encoded.index(b"IDAT") + 4
    for position in range(end - 8):
        damaged = bytearray(encoded)
        damaged[position] ^= 1
        assert size_of_plain_png(bytes(damaged)) is None, position
    for size in range(end):
        assert size_of_plain_png(encoded[:size]) is None, size
    assert size_of_plain_png(encoded[:end]) == (7, 5)


@pytest.mark.parametrize(("place", "value"), [(0, 0), (4, 0), (8, 3), (9, 1), (9, 5), (10, 1), (11, 1), (12, 2)])
def test_an_impossible_header_is_not_plain(place, value):
    encoded = bytearray(png())
    content = bytearray(encoded[16:29])
    content[place : place + 4 if place < 8 else place + 1] = bytes(4) if place < 8 else bytes((value,))
    encoded[16:29] = content
    encoded[29:33] = struct.pack(">I", zlib.crc32(encoded[12:29]))
    assert size_of_plain_png(bytes(encoded)) is None
