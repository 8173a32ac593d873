"""Statistics of image files: closed forms, and files that decoders read differently."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from trainer_module import image_statistics
from trainer_module.model_input import Window


def encode(pixels, format_="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **options)
    return buffer.getvalue()


def measured(encoded, **options):
    return dict(
        zip(image_statistics.NAMES, image_statistics.measure(encoded, **options).statistics.tolist(), strict=True)
    )


def test_an_image_of_one_colour():
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:] = (200, 100, 50)
    values = measured(encode(pixels))
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    expected = {"brightness": luma, "contrast": 0, "sharpness": 0, "noise": 0, "saturation": 150}
    expected |= {"width": 30, "height": 20, "aspect_ratio": 1.5}
    # Cr and Cb of JFIF 1.02, page 3.
    expected |= {"chroma_red": 0.5 * 200 - 0.4187 * 100 - 0.0813 * 50 + 128}
    expected |= {"chroma_blue": -0.1687 * 200 - 0.3313 * 100 + 0.5 * 50 + 128}
    assert values == pytest.approx(expected, abs=0.1)


def test_noise_is_its_standard_deviation(rng):
    grey = np.clip(rng.normal(128.0, 8.0, (200, 200)), 0, 255).astype(np.uint8)
    assert measured(encode(grey))["noise"] == pytest.approx(8.0, rel=0.05)


def test_blur_lowers_sharpness(rng):
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    blurred = ndimage.gaussian_filter(pixels, (1.0, 1.0, 0.0))
    assert measured(encode(blurred))["sharpness"] < 0.5 * measured(encode(pixels))["sharpness"]


def test_sixteen_bits_are_scaled_by_the_window():
    values = np.full((8, 8), 3000, np.uint16)
    assert measured(encode(values), window=Window(0, 4095))["brightness"] == pytest.approx(255 * 3000 / 4095, abs=1)
    assert measured(encode(values))["brightness"] == pytest.approx(255 * 3000 / 65535, abs=1)


def test_images_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = measured(encode(np.zeros((10, 20, 3), np.uint8), "JPEG", exif=exif))
    assert (values["width"], values["height"]) == (10, 20)


def test_large_images_keep_their_size(rng):
    values = measured(encode(rng.integers(0, 256, (30, 1300), dtype=np.uint8)))
    assert (values["width"], values["height"]) == (1300, 30)


@pytest.mark.parametrize("encoded", [b"", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_an_unreadable_file_has_no_values(encoded):
    row, thumbnail = image_statistics.measure(encoded)
    assert np.isnan(row).all() and image_statistics.slices_of(row) == {}
    assert np.isnan(thumbnail).all() and thumbnail.shape == (64,)


def test_one_pixel():
    assert measured(encode(np.full((1, 1, 3), 9, np.uint8)))["sharpness"] == 0.0


def test_slices_of_an_image(rng):
    row = image_statistics.measure(encode(np.full((200, 100, 3), 250, np.uint8))).statistics
    assert image_statistics.slices_of(row) == {
        "brightness": "bright",
        "resolution": "small",
        "orientation": "portrait",
    }


def test_no_image_at_all():
    statistics, thumbnails = image_statistics.measure_all([])
    assert statistics.shape == (0, len(image_statistics.NAMES)) and thumbnails.shape == (0, 64)


def test_a_thumbnail_has_the_means_of_the_parts_of_an_image(rng):
    pixels = rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    expected = luma.reshape(8, 5, 8, 3).mean(axis=(1, 3)).ravel()
    _, (first, second) = image_statistics.measure_all([encode(pixels), encode(pixels[:, ::-1])])
    np.testing.assert_allclose(first, expected, atol=1.1)
    np.testing.assert_allclose(second.reshape(8, 8)[:, ::-1], expected.reshape(8, 8), atol=1.1)
