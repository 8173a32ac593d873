"""EXIF orientation in the graph, compared with Pillow; damaged headers."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from trainer_module import orientation, preprocessing


def photograph(tag, *, endian="<", before=(), **extra) -> bytes:
    """Encodes a smooth 16 x 24 image with four different corners, as a camera does."""
    y, x = np.mgrid[0:16, 0:24]
    pixels = np.stack([y * 15, x * 10, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "maker"
    for key, value in extra.items():
        exif[int(key[1:], 16)] = value
    if tag is not None:
        exif[0x0112] = tag
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif)
    encoded = buffer.getvalue()
    segments = b"".join(marker + (len(content) + 2).to_bytes(2, "big") + content for marker, content in before)
    return encoded[:2] + segments + encoded[2:]


def read(encoded) -> int:
    return int(orientation.exif_orientation(tf.constant(encoded)))


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_equals_that_of_pillow(tag, endian):
    encoded = photograph(tag, endian=endian)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert read(encoded) == tag
    decoded = preprocessing.decode(tf.constant(encoded), 3).numpy()
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 6  # two JPEG decoders


def test_orientation_is_the_same_in_tf_data():
    encoded = [photograph(tag) for tag in range(1, 9)]
    dataset = tf.data.Dataset.from_tensor_slices(encoded).map(orientation.exif_orientation)
    assert list(dataset.as_numpy_iterator()) == list(range(1, 9))


@pytest.mark.parametrize("tag", [None, 0, 9, 4000])
def test_a_missing_or_invalid_tag_means_upright(tag):
    assert read(photograph(tag)) == 1


def test_other_segments_may_precede_the_tag():
    before = [(b"\xff\xe2", b"MPF" * 50), (b"\xff\xfe", b"a comment"), (b"\xff\xe1", b"http://ns.adobe.com/xap/1.0/\0")]
    assert read(photograph(6, before=before)) == 6


def test_other_files_are_upright():
    for format_ in ("PNG", "GIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (3, 2)).save(buffer, format_)
        assert read(buffer.getvalue()) == 1
    assert read(b"") == read(b"\xff") == read(b"\xff\xd8") == read(b"\xff\xd8\xff\xe1") == 1


def test_a_damaged_header_gives_a_valid_orientation(rng):
    source = photograph(6)
    for _ in range(300):
        damaged = bytearray(source)
        for position in rng.integers(2, 60, rng.integers(1, 6)):
            damaged[position] = rng.integers(256)
        assert 1 <= read(bytes(damaged)) <= 8
    for length in range(len(source)):
        assert 1 <= read(source[:length]) <= 8
