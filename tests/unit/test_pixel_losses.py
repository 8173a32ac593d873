"""Losses and class weights of masks, compared with values computed by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import pixel_losses
from trainer_module.mask_labels import PADDING_ID
from trainer_module.pixel_losses import PixelLoss

# Probabilities of three classes in four pixels, and their labels.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
LABELS = np.array([0, 1, 2, 0], np.uint8)
LOGITS = tf.constant(np.log(PROBABILITIES).reshape(1, 2, 2, 3), tf.float32)
TRUE = [0.7, 0.8, 0.4, 0.25]


def value(kind, labels=LABELS, weights=(1.0, 1.0, 1.0), **arguments):
    return float(PixelLoss(kind, weights, **arguments)(labels.reshape(1, 2, 2), LOGITS))


def test_cross_entropy():
    assert value("cross_entropy") == pytest.approx(-sum(map(math.log, TRUE)) / 4, rel=1e-5)


def test_cross_entropy_with_class_weights():
    weighted = -(2 * math.log(0.7) + math.log(0.8) + 3 * math.log(0.4) + 2 * math.log(0.25)) / 8
    assert value("cross_entropy", weights=(2.0, 1.0, 3.0)) == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    expected = -sum((1 - p) ** gamma * math.log(p) for p in TRUE) / 4
    assert value("focal", focal_gamma=gamma) == pytest.approx(expected, rel=1e-4)


def test_dice():
    overlap = [0.7 + 0.25, 0.8, 0.4]
    predicted = PROBABILITIES.sum(axis=0)
    coefficients = [2 * o / (p + t) for o, p, t in zip(overlap, predicted, [2, 1, 1], strict=True)]
    assert value("dice") == pytest.approx(1 - sum(coefficients) / 3, rel=1e-5)
    assert value("cross_entropy_dice") == pytest.approx(value("dice") + value("cross_entropy"), rel=1e-5)


def test_dice_skips_a_class_that_does_not_occur():
    labels = np.array([0, 1, 1, 0], np.uint8)
    predicted = PROBABILITIES.sum(axis=0)
    expected = 1 - (2 * 0.95 / (predicted[0] + 2) + 2 * 1.1 / (predicted[1] + 2)) / 2
    assert value("dice", labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "dice", "cross_entropy_dice", "focal"])
@pytest.mark.parametrize("ignore_id", [3, 255])
def test_ignored_pixels_change_neither_loss_nor_gradient(kind, ignore_id):
    labels = np.array([[[0, 1], [2, ignore_id]]], np.uint8)
    loss = PixelLoss(kind, (1.0, 2.0, 1.0), ignore_id=ignore_id)
    other = LOGITS.numpy()
    other[0, 1, 1] = [9.0, -4.0, 2.0]
    assert float(loss(labels, LOGITS)) == pytest.approx(float(loss(labels, other)), rel=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(LOGITS)
        result = loss(labels, LOGITS)
    gradient = tape.gradient(result, LOGITS).numpy()
    assert not gradient[0, 1, 1].any()
    assert gradient[0, 0, 0].any()


@pytest.mark.parametrize("kind", ["cross_entropy", "dice", "focal"])
def test_the_loss_of_ignored_pixels_is_0(kind):
    assert float(PixelLoss(kind, (1.0, 1.0, 1.0), ignore_id=9)(np.full((1, 2, 2), 9, np.uint8), LOGITS)) == 0.0


def test_a_certain_correct_prediction_has_a_finite_gradient():
    logits = tf.constant([[[[100.0, 0.0]]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = PixelLoss("focal", (1.0, 1.0), focal_gamma=2.0)(np.zeros((1, 1, 1), np.uint8), logits)
    assert float(result) == 0.0
    assert np.isfinite(tape.gradient(result, logits)).all()


def test_class_weights():
    # 6 pixels of class 0 in the first two images, 2 of class 1 in the first, none of class 2; 255 is ignored.
    masks = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 0]], [[255, 255], [255, 255]]], np.uint8)
    data = tf.data.Dataset.from_tensor_slices((np.zeros((3, 2, 2, 3), np.uint8), masks)).batch(2)
    np.testing.assert_array_equal(pixel_losses.class_weights("none", data, 3, 255), [1, 1, 1])
    np.testing.assert_allclose(pixel_losses.class_weights("balanced", data, 3, 255), [8 / 12, 8 / 4, 0])
    # Shares in the images that contain the class: 6/8 and 2/4; the median is 5/8.
    median = pixel_losses.class_weights("median_frequency", data, 3, 255)
    np.testing.assert_allclose(median, [0.625 / 0.75, 0.625 / 0.5, 0], rtol=1e-6)
    logarithmic = pixel_losses.class_weights("log", data, 3, 255)
    np.testing.assert_allclose(logarithmic, [1 / np.log(1.77), 1 / np.log(1.27), 0], rtol=1e-6)


def test_padding_has_no_loss_and_no_weight(rng):
    logits = tf.constant(rng.normal(size=(1, 4, 6, 3)), tf.float32)
    inner = rng.integers(0, 3, (1, 4, 4)).astype(np.uint8)
    padded = np.pad(inner, [(0, 0), (0, 0), (1, 1)], constant_values=PADDING_ID)
    for kind in ("cross_entropy", "dice"):
        loss = PixelLoss(kind, [1.0, 2.0, 3.0])
        np.testing.assert_allclose(loss(padded, logits), loss(inner, logits[:, :, 1:5]), rtol=1e-5)
    data = tf.data.Dataset.from_tensors((logits, padded))
    expected = pixel_losses.class_weights("balanced", tf.data.Dataset.from_tensors((logits, inner)), 3, None)
    np.testing.assert_allclose(pixel_losses.class_weights("balanced", data, 3, None), expected)
