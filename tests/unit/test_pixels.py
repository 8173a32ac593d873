"""The size in an image's header, before anything is decoded."""

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
EXIF[0x010E] = "x" * 5000  # a description that is longer than most headers

IMAGES = {
    "png": encoded("PNG"),
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "exif": encoded("JPEG", exif=EXIF),
    "gif": encoded("GIF"),
    "gif with a comment": encoded("GIF", comment=b"c" * 600),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_sizes(image):
    assert pixels.image_size(image) == (31, 47)
    example = tf.train.Example()
    example.features.feature["a"].int64_list.value.append(1)
    example.features.feature["image/encoded"].bytes_list.value.append(image)
    assert pixels.image_size(example.SerializeToString()) == (31, 47)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_every_truncation_has_this_size_or_none(image):
    sizes = {pixels.image_size(image[:length]) for length in range(min(len(image), 700))}
    assert sizes <= {None, (31, 47)}


@pytest.mark.parametrize("value", [b"", b"words", b"\xff\xd8\xff", b"GIF89a", bytes(1000), b"\xff" * 1000])
def test_values_that_are_not_images(value):
    assert pixels.image_size(value) is None


def test_the_larger_size_of_a_gif_counts():
    gif = bytearray(IMAGES["gif"])
    gif[6:10] = bytes(4)  # an empty screen; the image has its own size
    assert pixels.image_size(bytes(gif)) == (31, 47)


def test_the_limit_itself_is_allowed():
    values = np.array([IMAGES["jpeg"], b"words"], dtype=object)
    pixels.refuse_large_images({"x": values, "n": np.zeros(3)}, 31 * 47)
    with pytest.raises(RequestError, match=r"Image 0 of input x has 47 x 31 pixels, more than 1456\.") as raised:
        pixels.refuse_large_images({"x": values}, 31 * 47 - 1)
    assert raised.value.code == "INVALID_ARGUMENT"
