"""What a picture's header says of its size, before anything is decoded."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.local_server import pixels
from serving.local_server.errors import RequestError


def encoded(format_, **named):
    noise = np.random.default_rng(1).integers(0, 255, (31, 47, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format_, **named)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x010E] = "x" * 5000  # a description that is longer than many a header

PICTURES = {
    "png": encoded("PNG"),
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "exif": encoded("JPEG", exif=EXIF),
    "gif": encoded("GIF"),
    "gif with a comment": encoded("GIF", comment=b"c" * 600),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_sizes(picture):
    assert pixels.size_of(picture) == (31, 47)
    example = tf.train.Example()
    example.features.feature["a"].int64_list.value.append(1)
    example.features.feature["image/encoded"].bytes_list.value.append(picture)
    assert pixels.size_of(example.SerializeToString()) == (31, 47)


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_no_beginning_of_a_picture_is_a_trouble(picture):
    sizes = {pixels.size_of(picture[:length]) for length in range(min(len(picture), 700))}
    assert sizes <= {None, (31, 47)}


@pytest.mark.parametrize("value", [b"", b"words", b"\xff\xd8\xff", b"GIF89a", bytes(1000), b"\xff" * 1000])
def test_what_is_no_picture(value):
    assert pixels.size_of(value) is None


def test_the_larger_of_a_gifs_sizes_counts():
    gif = bytearray(PICTURES["gif"])
    gif[6:10] = bytes(4)  # a screen of nothing; the image says what it needs
    assert pixels.size_of(bytes(gif)) == (31, 47)


def test_the_limit_is_the_first_that_passes():
    values = np.array([PICTURES["jpeg"], b"words"], dtype=object)
    pixels.check({"x": values, "n": np.zeros(3)}, 31 * 47)
    with pytest.raises(RequestError, match=r"Picture 0 of input x has 47 x 31 pixels, more than 1456\.") as raised:
        pixels.check({"x": values}, 31 * 47 - 1)
    assert raised.value.code == "INVALID_ARGUMENT"
