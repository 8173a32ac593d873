"""Standard corruptions: published severities, reproducible, and nothing moves."""

import io

import numpy as np
import pytest
from PIL import Image

from components.evaluator import corruptions
from components.evaluator.corruptions import NAMES, SEVERITIES, corrupt

SIDE = 48


@pytest.fixture(scope="module")
def photo():
    """A smooth colour gradient with an edge: uint8 [40, 56, 3]."""
    y, x = np.mgrid[:40, :56]
    pixels = np.stack([4 * y + 40, 3 * x + 30, 200 - 2 * y - x], axis=-1)
    pixels[10:20, 20:30] = (250, 30, 30)
    return pixels.astype(np.uint8)


def distance(a, b):
    return np.abs(a.astype(int) - b).mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_keeps_the_shape_is_reproducible_and_grows(name, photo):
    corrupted = [corrupt(photo, name, severity, side=SIDE) for severity in SEVERITIES]
    assert {(image.shape, image.dtype) for image in corrupted} == {(photo.shape, photo.dtype)}
    np.testing.assert_array_equal(corrupted[2], corrupt(photo, name, 3, side=SIDE))
    assert min(distance(image, photo) for image in corrupted) > 0.5
    if name != "saturate":  # whose first two severities reduce the saturation
        assert distance(corrupted[4], photo) > distance(corrupted[0], photo)


def test_noise_differs_by_image_and_severity(photo):
    noise = corrupt(photo, "noise", 1, side=SIDE).astype(int) - photo
    other = corrupt(photo[::-1].copy(), "noise", 1, side=SIDE).astype(int) - photo[::-1]
    assert np.corrcoef(noise.ravel(), other.ravel())[0, 1] < 0.1
    gray = np.full((64, 64, 3), 128, np.uint8)
    assert abs(corrupt(gray, "noise", 1, side=64).std() - 255 * 0.08) < 1.0


def test_jpeg_is_that_of_pillow(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=25)
    np.testing.assert_array_equal(corrupt(photo, "jpeg", 1, side=SIDE), np.asarray(Image.open(buffer)))


def test_blur_scales_with_the_image():
    # At 224 pixels the first severity has a standard deviation of one pixel.
    for side, deviation in ((224, 1.0), (448, 2.0)):
        image = np.zeros((side, side, 3), np.uint8)
        image[side // 2 :] = 200
        profile = np.diff(corrupt(image, "blur", 1, side=side)[:, 0, 0].astype(float))
        rows = np.arange(len(profile))
        mean = (profile * rows).sum() / profile.sum()
        measured = np.sqrt((profile * (rows - mean) ** 2).sum() / profile.sum())
        assert measured == pytest.approx(deviation, abs=0.1)


@pytest.mark.parametrize(("name", "sign"), [("dark", -1), ("bright", 1)])
def test_lightness_shifts_the_value_and_keeps_the_hue(name, sign):
    pixels = np.full((4, 4, 3), (120, 60, 30), np.uint8)
    changed = corrupt(pixels, name, 2, side=8)[0, 0].astype(float)
    assert changed[0] == pytest.approx(120 + sign * 0.2 * 255, abs=1)
    np.testing.assert_allclose(changed / changed[0], (1.0, 0.5, 0.25), atol=0.02)


def test_saturation_of_gray_stays_zero():
    gray = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(corrupt(gray, "saturate", 5, side=8), gray)


def test_a_large_image_is_corrupted_at_the_size_of_the_model():
    gray = np.full((256, 256, 3), 128, np.uint8)
    noisy = corrupt(gray, "noise", 1, side=64)
    blocks = noisy.reshape(64, 4, 64, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()  # reducing the image again does not average the noise
    assert abs(noisy.std() - 255 * 0.08) < 1.0


def test_every_corruption_has_five_severities():
    assert all(len(parameters) == len(SEVERITIES) for _, parameters in corruptions._CORRUPTIONS.values())
