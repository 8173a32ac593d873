"""Every random layer does what its name says."""

import numpy as np
import pytest

from trainer_module import augmentation
from trainer_module.options import AugmentationOptions


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)


def changed(images, **options):
    (layer,) = augmentation.layers(AugmentationOptions(**options), seed=5)
    return np.asarray(layer(images, training=True))


def test_a_flip_mirrors_some_pictures_and_leaves_the_others(images):
    result = changed(images, horizontal_flip=True)
    mirrored = [np.array_equal(after, before[:, ::-1]) for before, after in zip(images, result, strict=True)]
    same = [np.array_equal(after, before) for before, after in zip(images, result, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert any(mirrored) and any(same)


@pytest.mark.parametrize("options", [{"rotation": 0.1}, {"zoom": 0.3}, {"translation": 0.2}])
def test_geometry_moves_pixels_and_invents_no_values(images, options):
    result = changed(images, **options)
    assert np.abs(result - images).max() > 1
    assert result.min() >= images.min() - 1e-3 and result.max() <= images.max() + 1e-3
    flat = np.full_like(images, 77.0)
    np.testing.assert_allclose(changed(flat, **options), flat, atol=1e-3)


def test_contrast_keeps_the_mean(images):
    images = images * 0.2 + 100  # far from both ends, where values would be cut off
    result = changed(images, contrast=0.5)
    np.testing.assert_allclose(result.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.5)
    assert np.abs(result.std(axis=(1, 2)) / images.std(axis=(1, 2)) - 1).max() > 0.02


def test_brightness_shifts_every_pixel_alike(images):
    images = images * 0.2 + 100
    difference = changed(images, brightness=0.1) - images
    assert np.ptp(difference, axis=(1, 2, 3)).max() < 1e-2
    assert np.abs(difference).max() > 1


def test_nothing_asked_for_is_nothing_done():
    assert augmentation.layers(AugmentationOptions(), seed=5) == []
