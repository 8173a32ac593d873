"""Images of 16 bits that use fewer: detection, reduction, and the same pixels in every decoder."""

import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen import bit_depth, image_file
from components.image_example_gen.options import DataOptions
from trainer_module import image_statistics, preprocessing
from trainer_module.model_input import FULL_WINDOW, Geometry, Window


def deep(values, channels=1):
    """Encodes values [h, w] as a 16-bit PNG."""
    return tf.io.encode_png(np.repeat(np.asarray(values, np.uint16)[..., np.newaxis], channels, -1)).numpy()


@pytest.fixture
def values(rng):
    return rng.integers(0, 4096, (12, 9)).astype(np.uint16)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("largest", "bits"), [(4095, 12), (2048, 12), (1023, 10), (200, 8), (256, 9), (65535, 16), (0, 8)]
)
def test_used_bits(values, channels, largest, bits):
    limited = np.minimum(values, largest)
    limited[0, 0] = largest
    assert (
        image_statistics.is_deep_png(deep(limited, channels))
        and bit_depth.used_bits(deep(limited, channels)).largest == bits
    )


@pytest.mark.parametrize("window", [FULL_WINDOW, Window.of_bits(12), Window(100, 3000)])
def test_shown_pixels_are_those_of_the_model(values, window):
    decoded = preprocessing.decode(tf.constant(deep(values)), 3, window).numpy()
    assert (np.asarray(image_statistics.decode_rgb(deep(values), window)) == decoded).all()
    # Of colours, only the high byte is known.
    colours = deep(values, 3)
    decoded = preprocessing.decode(tf.constant(colours), 3, window).numpy().astype(int)
    shown = np.asarray(image_statistics.decode_rgb(colours, window))
    assert abs(shown - decoded).max() <= 256 * 256 / (window.high - window.low + 1)


def test_transparency_does_not_count(values):
    with_alpha = np.stack([values // 4, np.full_like(values, 65535)], -1)
    assert bit_depth.used_bits(tf.io.encode_png(with_alpha).numpy()) == (10, 10)


def test_markers_are_not_typical(rng):
    values = rng.integers(0, 4096, (40, 40))
    values[0, :15] = 65535
    assert bit_depth.used_bits(deep(values)) == (16, 12)
    values[0, :17] = values[1, 0] = 65535
    assert bit_depth.used_bits(deep(values)) == (16, 16)


def test_other_files_are_not_deep(make_image):
    assert not any(map(image_statistics.is_deep_png, [make_image(), make_image(9, 9, "JPEG"), b"", deep([[1]])[:20]]))
    assert bit_depth.used_bits(deep(np.arange(900).reshape(30, 30))[:-40]) is None


@pytest.mark.parametrize("bits", [8, 9, 12, 15])
def test_decoded_pixels_are_the_highest_bits(values, bits):
    encoded = deep(values)
    expected = np.minimum(values, 2**bits - 1) >> (bits - 8)
    decoded = preprocessing.decode(tf.constant(encoded), 3, Window.of_bits(bits)).numpy()
    assert (decoded == expected[..., np.newaxis]).all()
    batch = preprocessing.decode_and_resize(tf.constant([encoded]), Geometry.of(12), 1, Window.of_bits(bits))
    assert batch.shape == (1, 12, 12, 1)


def test_16_bits_are_decoded_as_before(values):
    encoded = tf.constant(deep(values.astype(np.uint16) * 16))
    plain = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    assert (preprocessing.decode(encoded, 3) == plain).numpy().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_reduced_file_has_the_pixels_of_the_original(values, channels):
    original = deep(values, channels)
    reduced = bit_depth.reduce(original, Window.of_bits(12))
    assert reduced[24] == 8 and len(reduced) < len(original)
    assert tf.io.decode_png(reduced).shape[-1] == channels
    for bits in (12, 16):  # whatever the served model expects, a file of 8 bits has its own values
        expected = preprocessing.decode(original, 3, Window.of_bits(12))
        assert (preprocessing.decode(reduced, 3, Window.of_bits(bits)) == expected).numpy().all()


def test_files_of_8_bits_do_not_depend_on_the_bit_depth(make_image):
    encoded = [make_image(30, 20), make_image(9, 40, "JPEG"), make_image(16, 16, channels=1), make_image(8, 8, "GIF")]
    np.testing.assert_array_equal(
        preprocessing.decode_and_resize(tf.constant(encoded), Geometry.of(16), 3, Window.of_bits(12)),
        preprocessing.decode_and_resize(tf.constant(encoded), Geometry.of(16), 3),
    )


@pytest.mark.parametrize("encoded", [b"", b"words", b"\x89PNG\r\n\x1a\n", deep([[1]])[:40]])
def test_unreadable_bytes_are_an_invalid_argument(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode_and_resize(tf.constant([encoded]), Geometry.of(8), 3, Window.of_bits(12))


def test_examined_images_are_reduced_only_below_16_bits(values, make_image):
    files = [deep(values), make_image(), deep(values)[:-60]]
    for depth in (16, 12):
        window = Window.of_bits(depth)
        first, second, damaged = image_file.examine_all(files, DataOptions(max_pixels=10_000), window)
        assert (first.used_bits, second.used_bits, second.encoded) == ((12, 12), None, files[1])
        assert (first.encoded == files[0]) == (depth == 16)
        assert not isinstance(damaged.result, image_file.ImageProperties)
        assert first.result.mean["red"] == pytest.approx((values >> (depth - 8)).mean(), abs=1e-9)
    assert bit_depth.detect([9, 12, 8]) == Window(0, 4095) and bit_depth.detect([]) == FULL_WINDOW


@pytest.mark.parametrize("window", [(1000, 3000), (0, 100), (0, 4095), (2000, 2001), (300, 65535)])
def test_a_window_spreads_its_values_evenly(values, window):
    low, high = window
    values[0, :3] = [low, high, 4095]
    decoded = preprocessing.decode(tf.constant(deep(values)), 3, Window(low, high)).numpy()[..., 0]
    inside = np.clip(values.astype(np.int64), low, high) - low
    np.testing.assert_array_equal(decoded, inside * 256 // (high - low + 1))
    assert decoded[0, 0] == 0 and decoded[0, 1] == (128 if high - low == 1 else 255 if high - low >= 255 else 253)
    assert (decoded[values <= low] == 0).all()


def test_a_bit_depth_is_a_window():
    assert Window.of_bits(12) == (0, 4095) and Window(0, 4095).bit_depth == 12
    assert Window(1, 4095).bit_depth is None and Window(0, 4000).bit_depth is None and FULL_WINDOW.bit_depth == 16
