"""Every augmentation changes images as specified, in the model and in the data."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from trainer_module import augmentation, image_quality, tasks, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import AugmentationOptions, TrainerOptions
from trainer_module.tasks import classification, segmentation

SEED = np.array([5, 9])
GEOMETRY = {"rotation": 0.1, "zoom": 0.3, "translation": 0.2}
EVERYTHING = GEOMETRY | {
    "horizontal_flip": True,
    "vertical_flip": True,
    "contrast": 0.3,
    "brightness": 0.2,
    "saturation": 0.3,
    "hue": 0.1,
    "random_erasing": 0.5,
}


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)


def changed(images, seed=SEED, **options):
    return augmentation.augment_images(tf.constant(images), AugmentationOptions(**options), tf.constant(seed)).numpy()


def dots(count, side, row, column):
    images = np.zeros((count, side, side, 1), np.float32)
    images[:, row, column] = 200.0
    return images


def centres(images):
    """Centre of mass of every image, (y, x) [N, 2]."""
    weights = images[..., 0] / images[..., 0].sum(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    return np.stack([(weights * y).sum(axis=(1, 2)), (weights * x).sum(axis=(1, 2))], axis=1)


# --- Geometry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
@pytest.mark.parametrize("with_shift", [False, True], ids=["flip alone", "as an affine map"])
def test_a_flip_mirrors_half_of_the_images(rng, option, axis, with_shift):
    images = rng.uniform(0, 255, (400, 6, 6, 1)).astype(np.float32)
    # A tiny angle makes the flip a part of an affine map.
    result = changed(images, **({option: True} | ({"rotation": 1e-9} if with_shift else {})))
    tolerance = 0.01 if with_shift else 0.0
    mirrored = np.abs(result - np.flip(images, axis)).max(axis=(1, 2, 3)) <= tolerance
    same = np.abs(result - images).max(axis=(1, 2, 3)) <= tolerance
    assert (mirrored != same).all()
    assert 160 < mirrored.sum() < 240


def test_both_flips_are_independent(rng):
    images = rng.uniform(0, 255, (400, 6, 6, 1)).astype(np.float32)
    result = changed(images, horizontal_flip=True, vertical_flip=True)
    counts = []
    for axes in ((), (1,), (2,), (1, 2)):
        counts.append((result == np.flip(images, axes)).all(axis=(1, 2, 3)).sum())
    assert sum(counts) == 400 and min(counts) > 70


def test_a_rotation_moves_a_dot_along_a_circle_within_its_range():
    row, column, middle = 16, 28, 16.0
    result = changed(dots(300, 33, row, column), rotation=0.125)
    y, x = (centres(result) - middle).T
    np.testing.assert_allclose(np.hypot(y, x), column - middle, atol=0.5)
    angles = np.arctan2(y, x)
    assert np.abs(angles).max() < math.pi / 4 + 0.02
    assert angles.min() < -0.7 and angles.max() > 0.7


def test_a_full_range_of_angles_reaches_every_side():
    y, x = (centres(changed(dots(300, 33, 16, 28), rotation=0.5)) - 16.0).T
    assert y.min() < -11 and y.max() > 11 and x.min() < -11 and x.max() > 11


def test_zoom_enlarges_and_reduces_a_square_within_its_range():
    images = np.zeros((300, 40, 40, 1), np.float32)
    images[:, 10:30, 10:30] = 1.0
    sides = np.sqrt(changed(images, zoom=0.25).sum(axis=(1, 2, 3)))
    # Interpolation blurs half a pixel at every edge.
    assert sides.min() > 20 * 0.75 - 0.1 and sides.max() < 20 * 1.25 + 0.1
    assert sides.min() < 15.5 and sides.max() > 24.5
    np.testing.assert_allclose(centres(changed(images, zoom=0.25)), 19.5, atol=1e-3)


def test_translation_moves_a_dot_by_whole_pixels_within_its_range():
    images = dots(400, 20, 10, 10)
    result = changed(images, translation=0.1)
    assert set(np.unique(result)) == {0.0, 200.0}  # no interpolation
    moved = centres(result) - 10
    assert set(map(tuple, moved.astype(int))) == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    counts = np.unique(moved, return_counts=True)[1]
    assert counts.min() > 0.7 * counts.mean()  # all shifts are equally probable
    assert np.abs(centres(changed(images, translation=0.01)) - 10).max() == 1.0


def test_translation_after_a_zoom_is_within_its_range():
    moved = centres(changed(dots(200, 21, 10, 10), translation=0.2, zoom=0.01)) - 10
    assert np.abs(moved).max() <= 0.2 * 21 + 0.1
    assert np.abs(moved).max() > 0.2 * 21 - 0.5


@pytest.mark.parametrize("options", [{key: value} for key, value in GEOMETRY.items()] + [GEOMETRY])
def test_geometry_moves_pixels_within_their_range_of_values(images, options):
    result = changed(images, **options)
    assert np.abs(result - images).max() > 1
    assert result.min() >= images.min() - 1e-3 and result.max() <= images.max() + 1e-3
    flat = np.full_like(images, 77.0)
    np.testing.assert_allclose(changed(flat, **options), flat, atol=1e-3)


def test_masks_move_with_their_images_and_ids_are_not_averaged():
    # The pixels are their coordinates, which interpolation preserves; the mask has a different id at every position.
    y, x = np.mgrid[:16, :16].astype(np.float32)
    batch = np.repeat(np.stack([y, x, y], axis=-1)[np.newaxis], 40, axis=0)
    masks = np.repeat((16 * y + x).astype(np.uint8)[np.newaxis], 40, axis=0)
    options = AugmentationOptions(horizontal_flip=True, vertical_flip=True, **GEOMETRY)
    moved, ids = augmentation.augment_images_and_masks(
        tf.constant(batch), tf.constant(masks), options, tf.constant(SEED)
    )
    y, x, _ = np.moveaxis(moved.numpy(), -1, 0)
    halfway = (np.abs(y % 1 - 0.5) < 1e-3) | (np.abs(x % 1 - 0.5) < 1e-3)
    assert halfway.mean() < 0.01
    expected = 16 * np.round(y) + np.round(x)
    np.testing.assert_array_equal(ids.numpy()[~halfway], expected[~halfway])
    assert (ids.numpy() != masks).mean(axis=(1, 2)).min() > 0.5


def positions(num, height, width):
    """Returns images of their own coordinates, which interpolation preserves, and masks of an id at every position."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    batch = np.repeat(np.stack([y, x, y], axis=-1)[np.newaxis], num, axis=0)
    return tf.constant(batch), tf.constant(np.repeat((width * y + x).astype(np.uint8)[np.newaxis], num, axis=0))


def test_crops_are_parts_at_any_position_and_move_with_their_masks():
    batch, masks = positions(600, 14, 18)
    parts, ids = augmentation.augment_images_and_masks(
        batch, masks, AugmentationOptions(crop=0.5), tf.constant(SEED), (8, 10)
    )
    assert parts.shape == (600, 8, 10, 3) and ids.shape == (600, 8, 10) and ids.dtype == tf.uint8
    y, x, _ = np.moveaxis(parts.numpy(), -1, 0)
    top, left = y[:, 0, 0], x[:, 0, 0]
    rows, columns = np.mgrid[:8, :10]
    np.testing.assert_array_equal(y, top[:, np.newaxis, np.newaxis] + rows)  # not interpolated
    np.testing.assert_array_equal(x, left[:, np.newaxis, np.newaxis] + columns)
    np.testing.assert_array_equal(ids, (18 * y + x).astype(np.uint8))
    assert set(top) == set(range(7)) and set(left) == set(range(9))
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.15


def test_crops_of_zoomed_images_stay_inside_if_these_are_large_enough():
    batch, masks = positions(300, 40, 30)
    options = AugmentationOptions(crop=0.5, zoom=0.3, horizontal_flip=True)
    parts, ids = augmentation.augment_images_and_masks(batch, masks, options, tf.constant(SEED), (20, 16))
    y, x, _ = np.moveaxis(parts.numpy(), -1, 0)
    scale = 17 / (y[:, -2, 0] - y[:, 1, 0])
    assert 0.7 <= scale.min() < 0.75 and 1.25 < scale.max() <= 1.31
    # Neighbouring pixels differ by the same everywhere: none is outside, and takes the value of the border. The centres
    # of the first and last ones may be in the outer half of a pixel.
    for step in (np.diff(y, axis=1)[:, 1:-1], np.abs(np.diff(x, axis=2)[:, :, 1:-1])):
        np.testing.assert_allclose(step, np.broadcast_to(1 / scale[:, None, None], step.shape), atol=2e-3)
    assert 0.4 < (np.diff(x, axis=2)[:, 0, 0] < 0).mean() < 0.6
    halfway = (np.abs(y % 1 - 0.5) < 1e-2) | (np.abs(x % 1 - 0.5) < 1e-2)
    expected = (30 * np.round(y) + np.round(x)).astype(np.uint8)
    np.testing.assert_array_equal(ids.numpy()[~halfway], expected[~halfway])
    reached = np.unique(np.round(y))
    assert reached[0] == 0 and reached[-1] == 39
    # One that is too small is in the middle.
    parts, _ = augmentation.augment_images_and_masks(
        batch[:, :, :10], masks[:, :, :10], AugmentationOptions(zoom=0.3), tf.constant(SEED), (20, 16)
    )
    np.testing.assert_allclose(parts[:, :, :8, 1] + parts[:, :, :7:-1, 1], 9.0, atol=1e-3)


def test_colours_change_in_the_image_only(images):
    masks = tf.constant((images[..., 0] // 86).astype(np.uint8))
    options = AugmentationOptions(contrast=0.5, brightness=0.2, saturation=0.5, hue=0.5)
    result, same = augmentation.augment_images_and_masks(images, masks, options, tf.constant(SEED))
    assert np.abs(result - images).max() > 1
    np.testing.assert_array_equal(same, masks)


# --- Colour -----------------------------------------------------------------------------------------------------


def test_contrast_keeps_the_mean_and_scales_the_deviation(rng):
    images = rng.uniform(110, 140, (300, 8, 8, 3)).astype(np.float32)
    result = changed(images, contrast=0.4)
    np.testing.assert_allclose(result.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-2)
    ratios = result.std(axis=(1, 2)) / images.std(axis=(1, 2))
    np.testing.assert_allclose(ratios, np.repeat(ratios[:, :1], 3, axis=1), rtol=1e-3)
    assert 0.6 - 1e-3 <= ratios.min() < 0.62 and 1.38 < ratios.max() <= 1.4 + 1e-3


def test_brightness_shifts_all_pixels_equally(rng):
    images = rng.uniform(110, 140, (300, 8, 8, 3)).astype(np.float32)
    difference = changed(images, brightness=0.1) - images
    assert np.ptp(difference, axis=(1, 2, 3)).max() < 1e-3
    shifts = difference[:, 0, 0, 0]
    assert -25.5 <= shifts.min() < -24 and 24 < shifts.max() <= 25.5


def chroma(images):
    """I and Q of a colour as one complex number, [...]."""
    yiq = tf.image.rgb_to_yiq(images / 255.0).numpy()
    return yiq[..., 1] + 1j * yiq[..., 2]


@pytest.mark.parametrize("options", [{"saturation": 0.4}, {"hue": 0.2}, {"saturation": 0.4, "hue": 0.2}], ids=str)
def test_saturation_and_hue_scale_and_turn_the_colours(rng, options):
    images = rng.uniform(110, 140, (300, 8, 8, 3)).astype(np.float32)
    result = changed(images, **options)
    lightness = [tf.image.rgb_to_yiq(each)[..., 0].numpy() for each in (images, result)]
    np.testing.assert_allclose(*lightness, atol=1e-2)
    before, after = chroma(images).reshape(300, -1), chroma(result).reshape(300, -1)
    ratios = (before.conj() * after).sum(axis=1) / (np.abs(before) ** 2).sum(axis=1)
    np.testing.assert_allclose(after, ratios[:, np.newaxis] * before, atol=1e-4)
    scales, turns = np.abs(ratios), np.angle(ratios) / (2 * np.pi)
    for values, middle, most in ((scales, 1.0, options.get("saturation", 0.0)), (turns, 0.0, options.get("hue", 0.0))):
        np.testing.assert_allclose([values.min(), values.max()], [middle - most, middle + most], atol=0.02)


def test_gray_images_have_no_colours_to_change(rng):
    one_channel = rng.uniform(0, 255, (8, 16, 16, 1)).astype(np.float32)
    np.testing.assert_array_equal(changed(one_channel, saturation=0.5, hue=0.5), one_channel)
    gray = np.repeat(one_channel, 3, axis=3)
    np.testing.assert_allclose(changed(gray, saturation=0.5, hue=0.5), gray, atol=1e-3)


def test_colours_stay_in_range(images):
    result = changed(images, contrast=1.0, brightness=1.0, saturation=1.0)
    assert result.min() == 0.0 and result.max() == 255.0


# --- Quality ----------------------------------------------------------------------------------------------------


QUALITY = {"jpeg_quality": 20, "blur": 1.5, "noise": 0.1}


@pytest.mark.parametrize("option", QUALITY)
def test_reduced_quality_changes_half_of_the_images(option):
    images = np.random.default_rng(3).integers(0, 256, (400, 16, 16, 3)).astype(np.float32)
    result = changed(images, **{option: QUALITY[option]})
    same = np.abs(result - images).max(axis=(1, 2, 3)) < 1e-3
    assert 160 < same.sum() < 240
    assert result.min() >= 0 and result.max() <= 255


def test_kinds_of_reduced_quality_are_independent_and_move_nothing():
    images = np.zeros((400, 17, 17, 1), np.float32)
    images[:, 8, 8] = 200.0
    blurred = changed(images, blur=1.0)
    peak = blurred[:, 8, 8, 0]
    assert (blurred.reshape(400, -1).argmax(axis=1) == 8 * 17 + 8).all()
    np.testing.assert_allclose(blurred.sum(axis=(1, 2, 3)), 200.0, rtol=1e-4)
    assert peak.min() > 200.0 / (2 * math.pi * 1.0**2) - 1.0  # that of the largest standard deviation
    both = changed(images, blur=1.0, noise=0.1)
    is_noisy = np.abs(both[:, 0, 0, 0]) + np.abs(both[:, 16, 16, 0]) + both[:, :3].max(axis=(1, 2, 3)) > 1.0
    assert 40 < (is_noisy & (peak < 199.0)).sum() < 100


def test_compression_is_that_of_libjpeg(rng):
    images = rng.integers(0, 256, (3, 24, 20, 3)).astype(np.float32)
    compressed = image_quality.compress(tf.constant(images), tf.constant([0, 30, 95]))
    np.testing.assert_array_equal(compressed[0], images[0])
    for index, quality in ((1, 30), (2, 95)):
        expected = tf.io.decode_jpeg(tf.io.encode_jpeg(tf.cast(images[index], tf.uint8), quality=quality))
        np.testing.assert_array_equal(compressed[index], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_reduced_quality_is_the_same_eagerly_and_in_tf_data(rng, channels):
    images = rng.uniform(0, 255, (6, 16, 12, channels)).astype(np.float32)
    data = tf.data.Dataset.from_tensors(images).map(
        lambda batch: augmentation.augment_images(batch, AugmentationOptions(**QUALITY), tf.constant(SEED))
    )
    (result,) = data.as_numpy_iterator()
    # A rounding error can change a compressed pixel by one.
    assert np.abs(result - changed(images, **QUALITY)).max() < 8.0
    assert np.abs(result - changed(images, **QUALITY)).mean() < 0.05


def test_masks_do_not_lose_quality(rng):
    images = rng.uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    masks = rng.integers(0, 5, (4, 16, 16)).astype(np.uint8)
    result, same = augmentation.augment_images_and_masks(
        tf.constant(images), tf.constant(masks), AugmentationOptions(**QUALITY), tf.constant(SEED)
    )
    np.testing.assert_array_equal(same, masks)
    np.testing.assert_array_equal(result, changed(images, **QUALITY))


# --- Erasing ----------------------------------------------------------------------------------------------------


def test_erasing_fills_a_rectangle_within_its_range():
    side = 64
    images = np.full((400, side, side, 3), -1.0, np.float32)  # noise is never negative
    result = changed(images, random_erasing=0.5)
    erased = (result != -1).any(axis=-1)
    share = erased.mean(axis=(1, 2))
    has_rectangle = share > 0
    assert 160 < has_rectangle.sum() < 240
    assert result[erased].min() >= 0 and result[erased].max() <= 255
    assert abs(result[erased].mean() - 127.5) < 1
    heights, widths = erased.any(axis=2).sum(axis=1)[has_rectangle], erased.any(axis=1).sum(axis=1)[has_rectangle]
    np.testing.assert_allclose(heights * widths, share[has_rectangle] * side**2)  # only the rectangle
    # The sides are rounded to whole pixels: an error of 0.5 of 64 * sqrt(0.02 / 3.3) = 5, at worst.
    assert share[has_rectangle].min() > 0.02 * 0.9 and share[has_rectangle].max() < 0.33 * 1.1
    assert share[has_rectangle].min() < 0.04 and share[has_rectangle].max() > 0.3
    aspects = heights / widths
    assert aspects.min() > 0.3 * 0.85 and aspects.max() < 3.3 * 1.15
    assert aspects.min() < 0.5 and aspects.max() > 2.8
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    assert rows[:, 0].any() and rows[:, -1].any() and columns[:, 0].any() and columns[:, -1].any()


# --- Mixing -----------------------------------------------------------------------------------------------------


def mixed(images, *targets, seed=SEED, **options):
    targets = tuple(tf.constant(target, tf.float32) for target in targets)
    result, targets = augmentation.mix(tf.constant(images), targets, AugmentationOptions(**options), tf.constant(seed))
    return result.numpy(), *(target.numpy() for target in targets)


def test_mixup_combines_images_labels_and_weights_equally(images):
    labels, weights = np.eye(8), np.arange(8.0)
    result, shares, mixed_weights = mixed(images, labels, weights, mixup=0.4)
    for index in range(8):
        other = (index + 1) % 8
        share = shares[index, index]
        assert 0 < share < 1
        np.testing.assert_allclose(shares[index], share * labels[index] + (1 - share) * labels[other], atol=1e-6)
        np.testing.assert_allclose(result[index], share * images[index] + (1 - share) * images[other], atol=1e-3)
        assert mixed_weights[index] == pytest.approx(share * index + (1 - share) * other, abs=1e-5)
    assert np.ptp(np.diag(shares)) > 0.01


def test_with_cutmix_label_shares_are_shares_of_pixels():
    num, side = 300, 24
    images = np.broadcast_to(np.arange(float(num))[:, None, None, None], (num, side, side, 3)).astype(np.float32)
    result, shares = mixed(images, np.eye(num), cutmix=1.0)
    own = result[..., 0] == np.arange(num)[:, None, None]
    others = result[..., 0] == np.roll(np.arange(num), -1)[:, None, None]
    assert (own != others).all() and (result == result[..., :1]).all()
    np.testing.assert_allclose(np.diag(shares), own.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    areas = others.any(axis=2).sum(axis=1) * others.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(others.sum(axis=(1, 2)), areas)  # a rectangle
    # Rectangles that extend over the border are clipped, so they are not squares.
    assert (others.any(axis=2).sum(axis=1) != others.any(axis=1).sum(axis=1)).any()
    assert own.mean(axis=(1, 2)).min() < 0.2 and own.mean(axis=(1, 2)).max() > 0.9


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_shares_have_a_beta_distribution(alpha):
    shares = augmentation._beta(4000, alpha, tf.constant(SEED)).numpy()
    assert np.isfinite(shares).all()
    # Float32 rounds some shares to 0 or 1, so the distribution is compared on a grid.
    grid = [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
    fractions = [(shares <= bound).mean() for bound in grid]
    np.testing.assert_allclose(fractions, stats.beta(alpha, alpha).cdf(grid), atol=0.03)


def test_with_mixup_and_cutmix_a_batch_uses_one_of_them(images):
    kinds = set()
    for number in range(12):
        result, shares = mixed(images, np.eye(8), seed=np.array([number, 1]), mixup=1.0, cutmix=1.0)
        either = (result == images) | (result == np.roll(images, -1, axis=0))
        kinds.add("cutmix" if either.all() else "mixup")
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    assert kinds == {"cutmix", "mixup"}


# --- Placement in the model or the data ---------------------------------------------------------------------------


def options(task="classification", **augmented):
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform={"image_size": 16},
        augmentation=augmented,
        model={"name": "scratch_cnn", "blocks": [[8], [8]]}
        if task == "classification"
        else {"name": "unet", "depth": 1, "filters": 4},
        task={"name": task},
        training={"batch_size": 4, "epochs": 1},
    )


def network(chosen):
    keras.utils.set_random_seed(2)
    return build_network(chosen, PixelStatistics(np.full(3, 127.0, np.float32), np.full(3, 900.0, np.float32)))


@pytest.fixture
def data(rng):
    images = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, np.arange(12) % 3)).batch(4)


def epochs(data, num=2):
    return [[[part.numpy() for part in batch] for batch in data] for _ in range(num)]


def equal(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4, "cutmix": 1.0}], ids=["labels unchanged", "labels mixed"])
def test_augmented_data_are_reproducible_and_differ_between_epochs(data, mixing):
    chosen = options(placement="in_dataset", **EVERYTHING, **mixing)

    def run():
        keras.utils.set_random_seed(17)  # as Trainer does
        return epochs(training.add_augmentation(None, data, chosen)[1])

    (first, second), again = run(), run()
    assert equal(first, again[0]) and equal(second, again[1])
    assert not equal(first, second)
    assert len({images.tobytes() for images, _ in first}) == 3
    images, labels = first[0]
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 255
    assert labels.shape == ((4, 3) if mixing else (4,))


def test_augmented_data_keep_their_length_and_sample_weights(data):
    weighted = data.map(lambda images, labels: (images, labels, tf.cast(labels, tf.float32)))
    _, result = training.add_augmentation(None, weighted, options(mixup=1.0))
    assert int(result.cardinality()) == 3
    for _, labels, weights in result:
        np.testing.assert_allclose(weights.numpy(), labels.numpy() @ np.arange(3.0), atol=1e-5)


def test_augmentation_in_the_model_is_reproducible_and_uses_the_same_function(images):
    chosen = AugmentationOptions(**EVERYTHING)

    def run():
        layer = augmentation.RandomAugmentation(chosen, seed=3)
        return [layer(images, training=True).numpy() for _ in range(2)]

    (first, second), again = run(), run()
    np.testing.assert_array_equal([first, second], again)
    assert not np.array_equal(first, second)
    seed = tf.cast(keras.random.SeedGenerator(3).next(), tf.int32)
    np.testing.assert_array_equal(first, augmentation.augment_images(images, chosen, seed))


def test_augmentation_is_inactive_outside_training(images):
    chosen = options(**EVERYTHING)
    model = network(chosen)
    fitted, _ = training.add_augmentation(model, None, chosen)
    expected = model(images, training=False).numpy()
    assert fitted is not model
    np.testing.assert_array_equal(fitted(images, training=False), expected)
    np.testing.assert_array_equal(fitted(images), expected)  # by default too
    np.testing.assert_array_equal(fitted.predict(images, verbose=0), fitted.predict(images, verbose=0))
    assert np.abs(fitted(images, training=True).numpy() - expected).max() > 1e-3
    assert not any(isinstance(layer, augmentation.RandomAugmentation) for layer in model.layers)
    np.testing.assert_array_equal(network(options())(images, training=False), expected)


@pytest.mark.parametrize("placement", ["in_model", "in_dataset"])
def test_both_placements_train(data, placement):
    chosen = options(placement=placement, **EVERYTHING)
    model = network(chosen)
    before = model.get_weights()
    fitted, augmented_data = training.add_augmentation(model, data, chosen)
    assert (fitted is model) == (placement == "in_dataset") == (augmented_data is not data)
    fitted.compile("adam", classification.TASK.loss(chosen), metrics=classification.TASK.training_metrics(chosen))
    history = fitted.fit(augmented_data, validation_data=data, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all() and np.isfinite(history.history["val_loss"]).all()
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_mixed_labels_train(data, eagerly):
    chosen = options(mixup=0.3, cutmix=1.0)
    model = network(chosen)
    fitted, augmented_data = training.add_augmentation(model, data, chosen)
    assert fitted is model
    fitted.compile("adam", classification.TASK.loss(chosen), metrics=classification.TASK.training_metrics(chosen))
    with eagerly():
        history = fitted.fit(augmented_data, validation_data=data, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert 0 <= history.history["val_accuracy"][0] <= 1


def test_masks_are_augmented_in_the_data(rng, eagerly):
    images = rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    data = tf.data.Dataset.from_tensor_slices((images, images[..., 0] // 86)).batch(4)
    chosen = options("segmentation", **GEOMETRY)
    model = network(chosen)
    fitted, augmented_data = training.add_augmentation(model, data, chosen)
    assert fitted is model
    keras.utils.set_random_seed(17)
    one = epochs(training.add_augmentation(model, data, chosen)[1], 1)
    keras.utils.set_random_seed(17)
    assert equal(one[0], epochs(training.add_augmentation(model, data, chosen)[1], 1)[0])
    fitted.compile("adam", segmentation.TASK.loss(chosen), metrics=segmentation.TASK.training_metrics(chosen))
    with eagerly():
        history = fitted.fit(augmented_data, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_network_learns_from_crops_and_predicts_whole_images(rng, tmp_path):
    masks = rng.integers(0, 2, (6, 8, 8), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(masks[..., np.newaxis] * np.uint8(200), 3, axis=3)
    chosen = TrainerOptions.model_validate(
        {
            "classes": ["a", "b"],
            "transform": {"image_size": [32, 32], "normalization": "rescale"},
            "task": {"name": "segmentation"},
            "model": {"name": "unet", "depth": 2, "filters": 4},
            "augmentation": {"crop": 0.4, "horizontal_flip": True},
            "training": {"epochs": 12, "batch_size": 3, "learning_rate": 0.03, "early_stopping_patience": 0},
        }
    )
    assert chosen.training_size == (12, 12)
    keras.utils.set_random_seed(3)
    model, data = network(chosen), tf.data.Dataset.from_tensor_slices((images, masks)).batch(3)
    parts, ids = training.add_augmentation(model, data, chosen)[1].element_spec
    assert parts.shape[1:] == (12, 12, 3) and ids.shape[1:] == (12, 12)
    history = training.train(model, chosen, train_data=data, validation_data=data, run_dir=str(tmp_path)).history
    assert history["val_mean_iou"][-1] > 0.9 > history["val_mean_iou"][0]
    predicted = model.predict(images, verbose=0).argmax(axis=-1)
    assert predicted.shape == (6, 32, 32) and (predicted == masks).mean() > 0.95
    with pytest.raises(ValueError, match="incompatible with the layer"):  # only in training
        model(images[:, :12, :12])


@pytest.mark.parametrize("task", tasks.names())
def test_without_options_model_and_data_are_unchanged(task):
    chosen = options(task)
    model, data = object(), object()
    assert training.add_augmentation(model, data, chosen) == (model, data)
    assert tasks.get(task).sample_weight(data, chosen) is data


# --- Invalid options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augmented", "task", "message"),
    [
        ({"random_erasing": 0.1}, {}, r"augmentation\.random_erasing does not support labels of .*a mask per image"),
        ({"mixup": 0.1}, {}, r"augmentation\.mixup does not support .*set it to 0"),
        ({"cutmix": 0.1}, {}, r"augmentation\.cutmix does not support"),
        ({"placement": "in_model"}, {}, r'set augmentation\.placement = "in_dataset"'),
        ({}, {"label_smoothing": 0.1}, r"task\.label_smoothing\s+Extra inputs"),
    ],
)
def test_options_that_masks_do_not_support(augmented, task, message):
    TrainerOptions(classes=("a", "b"), model={"name": "scratch_cnn"}, augmentation=augmented, task=task)
    masks = {"name": "segmentation", **task}
    with pytest.raises(ValueError, match=message):
        TrainerOptions(classes=("a", "b"), model={"name": "unet"}, augmentation=augmented, task=masks)


def test_crops_require_a_network_for_images_of_any_size():
    def chosen(**sections):
        common = {"classes": ("a", "b"), "augmentation": {"crop": 0.5}, "task": {"name": "segmentation"}}
        return TrainerOptions.model_validate(common | sections)

    with pytest.raises(ValueError, match=r'that of model\.name = "scratch_cnn" is for images of one size'):
        chosen(model={"name": "scratch_cnn"})
    with pytest.raises(ValueError, match=r"multiples of 16, and transform\.image_size is \[64, 100\]: set \[64, 96\]"):
        chosen(model={"name": "unet"}, transform={"image_size": [64, 100]})
    assert chosen(model={"name": "unet"}, transform={"image_size": [64, 96]}).training_size == (32, 48)
    small = chosen(model={"name": "unet"}, transform={"image_size": [64, 96]}, augmentation={"crop": 0.05})
    assert small.training_size == (16, 16)
    with pytest.raises(ValueError, match=r"augmentation\.crop does not support labels of .*set it to 0"):
        chosen(model={"name": "unet"}, task={"name": "classification"}, transform={"image_size": 64})


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_mixing_is_not_possible_in_the_model(key):
    with pytest.raises(ValueError, match=r'set augmentation\.placement = "in_dataset"'):
        AugmentationOptions(placement="in_model", **{key: 0.2})
