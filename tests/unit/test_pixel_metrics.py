"""Training metrics of masks, compared with scikit-learn."""

import math

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_matrix

from trainer_module.pixel_metrics import PixelMetrics, confusion_matrix

CLASSES = ("road", "car", "tree", "sky")


def logits_of(predicted):
    return np.eye(len(CLASSES), dtype=np.float32)[predicted] * 3


def test_all_metrics_over_several_batches(rng):
    truth = rng.integers(0, 4, (6, 5, 7)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    truth[rng.random(truth.shape) < 0.2] = 255
    metric = PixelMetrics(CLASSES, ignore_id=255)
    for part in (slice(0, 2), slice(2, 6)):
        metric.update_state(truth[part], logits_of(predicted[part]))
    values = {name: float(value) for name, value in metric.result().items()}
    y, z = truth[truth != 255], predicted[truth != 255]
    np.testing.assert_array_equal(metric.matrix, sklearn_matrix(y, z))
    assert values["pixel_accuracy"] == pytest.approx(accuracy_score(y, z))
    assert values["mean_iou"] == pytest.approx(jaccard_score(y, z, average="macro"))
    assert values["dice"] == pytest.approx(f1_score(y, z, average="macro"))
    for name, iou in zip(CLASSES, jaccard_score(y, z, average=None), strict=True):
        assert values[f"iou/{name}"] == pytest.approx(iou)
    for name, dice in zip(CLASSES, f1_score(y, z, average=None), strict=True):
        assert values[f"dice/{name}"] == pytest.approx(dice)
    metric.reset_state()
    assert not np.any(metric.matrix)


def test_a_class_that_does_not_occur_is_not_counted():
    metric = PixelMetrics(CLASSES)
    metric.update_state(np.array([[[0, 1]]]), logits_of(np.array([[[0, 0]]])))
    values = {name: float(value) for name, value in metric.result().items()}
    assert values["mean_iou"] == pytest.approx(0.25)  # road 1/2, car 0
    assert math.isnan(values["iou/sky"]) and math.isnan(values["dice/sky"])


def test_a_class_can_be_ignored():
    metric = PixelMetrics(CLASSES, ignore_id=0)
    metric.update_state(np.array([[[0, 1, 2, 2]]]), logits_of(np.array([[[1, 1, 2, 0]]])))
    values = {name: float(value) for name, value in metric.result().items()}
    assert values["pixel_accuracy"] == pytest.approx(2 / 3)
    assert values["mean_iou"] == pytest.approx((1 + 1 / 2) / 2)


def test_the_matrix_is_the_same_in_a_graph(rng):
    truth, predicted = rng.integers(0, 3, (2, 4, 9, 9))
    matrix = tf.function(lambda a, b: confusion_matrix(a, b, 3, None))(truth, predicted)
    np.testing.assert_array_equal(matrix, sklearn_matrix(truth.ravel(), predicted.ravel()))


def test_padding_is_not_counted():
    truth, predicted = np.array([[[0, 1, 255, 255]]], np.uint8), np.array([[[0, 0, 1, 2]]])
    np.testing.assert_array_equal(confusion_matrix(truth, predicted, 3), [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    # With 256 classes it is one of them.
    assert confusion_matrix(truth, predicted, 256).numpy().sum() == 4
