"""Decoding, resizing and packing, eagerly and in tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import geometry, preprocessing
from trainer_module.model_input import Geometry


@pytest.mark.parametrize("channels", [1, 3])
def test_decode_and_resize_gives_the_same_in_a_dataset(make_image, channels):
    encoded = [make_image(30, 20), make_image(9, 40, "JPEG"), make_image(16, 16, channels=1)]
    eager = preprocessing.decode_and_resize(tf.constant(encoded), Geometry.of(16), channels)
    dataset = tf.data.Dataset.from_tensor_slices(encoded).batch(3)
    (batch,) = dataset.map(lambda batch: preprocessing.decode_and_resize(batch, Geometry.of(16), channels))
    assert eager.shape == (3, 16, 16, channels)
    assert eager.dtype == tf.uint8
    np.testing.assert_array_equal(eager, batch)


def test_an_image_of_the_right_size_is_not_changed(rng, make_image):
    encoded = make_image(16, 16)
    pixels = preprocessing.decode(tf.constant(encoded), 3)
    np.testing.assert_array_equal(
        preprocessing.decode_and_resize(tf.constant([encoded]), Geometry.of(16), 3)[0], pixels
    )


def test_reducing_an_image_averages_its_pixels():
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = tf.constant(np.repeat(checkerboard[..., np.newaxis], 3, axis=-1), tf.uint8)
    inner = geometry.resize_pixels(pixels, Geometry.of(8)).numpy()[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() <= 2  # without antialiasing: 0 or 255


@pytest.mark.parametrize("channels", [1, 3])
def test_unpack_is_the_inverse_of_pack(rng, channels):
    pixels = rng.integers(0, 256, (5, 7, 7, channels), dtype=np.uint8)
    packed = preprocessing.pack(tf.constant(pixels))
    assert [len(one) for one in packed.numpy()] == [7 * 7 * channels] * 5
    assert packed.numpy()[2] == pixels[2].tobytes()
    np.testing.assert_array_equal(preprocessing.unpack(packed, (7, 7), channels), pixels)


@pytest.mark.parametrize("encoded", [b"", b"words", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_bytes_are_an_invalid_argument(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode_and_resize(tf.constant([encoded]), Geometry.of(8), 3)
