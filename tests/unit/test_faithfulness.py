"""Faithfulness metrics, compared with values computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import faithfulness, grad_cam, tasks
from trainer_module.tasks import Subject

SIDE = 16
CLASSIFICATION, SEGMENTATION = (tasks.get(name).explanation for name in ("classification", "segmentation"))


@pytest.fixture(scope="module")
def model():
    """Two classes; the logit of the second is a twentieth of the mean of the upper left quarter, less 2."""
    inputs = keras.Input([SIDE, SIDE, 1])
    x = keras.layers.Cropping2D(((0, SIDE // 2), (0, SIDE // 2)))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(2)(x)
    made = keras.Model(inputs, outputs)
    made.layers[-1].set_weights([np.array([[0.0, 0.05]], np.float32), np.array([0.0, -2.0], np.float32)])
    return made


@pytest.fixture
def images():
    bright = np.zeros((2, SIDE, SIDE, 1), np.float32)
    bright[:, : SIDE // 2, : SIDE // 2] = [[[[200.0]]], [[[80.0]]]]
    return bright


def probability(mean):
    return 1.0 / (1.0 + np.exp(2.0 - 0.05 * mean))


def explanation(heatmap, region=None):
    heatmap = np.broadcast_to(np.asarray(heatmap, np.float32), (2, SIDE, SIDE))
    ones = tf.ones([2], tf.int64)
    return grad_cam.ExplainedBatch(tf.constant(heatmap), Subject(ones, region), tf.ones([2]), None, tf.zeros([2, 2]))


def test_values_of_a_faithful_map(model, images):
    quarter = np.zeros((SIDE, SIDE), np.float32)
    quarter[: SIDE // 2, : SIDE // 2] = 1.0
    values = faithfulness.measurer(model, CLASSIFICATION, steps=4)(tf.constant(images), explanation(quarter), None)
    for n, value in enumerate((200.0, 80.0)):
        # The bright part is a quarter of the pixels: the first step deletes or inserts all of it.
        deleted = [probability(value)] + 4 * [probability(value / 4)]
        assert float(values["deletion_auc"][n]) == pytest.approx(np.trapezoid(deleted) / 4, rel=1e-4)
        blurred = tf.image.resize(tf.image.resize(images, [8, 8], method="area"), [SIDE, SIDE])[n, :8, :8].numpy()
        inserted = [probability(blurred.mean())] + 4 * [probability(value)]
        assert float(values["insertion_auc"][n]) == pytest.approx(np.trapezoid(inserted) / 4, rel=1e-4)
    np.testing.assert_array_equal(values["average_drop"], [0.0, 0.0])
    np.testing.assert_array_equal(values["increase_in_confidence"], [0.0, 0.0])


def test_an_unfaithful_map_is_worse_in_every_metric(model, images):
    quarter = np.zeros((SIDE, SIDE), np.float32)
    quarter[: SIDE // 2, : SIDE // 2] = 1.0
    measure = faithfulness.measurer(model, CLASSIFICATION, steps=8)
    right = measure(tf.constant(images), explanation(quarter), None)
    wrong = measure(tf.constant(images), explanation(1.0 - quarter), None)
    assert np.all(right["deletion_auc"] < wrong["deletion_auc"])
    assert np.all(right["insertion_auc"] > wrong["insertion_auc"])
    for n, value in enumerate((200.0, 80.0)):
        drop = 1.0 - probability(0.0) / probability(value)
        assert float(wrong["average_drop"][n]) == pytest.approx(drop, rel=1e-5)


def test_more_confidence_without_the_rest_counts_as_increase(model, images):
    """The first class is more probable without the bright part."""
    quarter = np.ones((SIDE, SIDE), np.float32)
    quarter[: SIDE // 2, : SIDE // 2] = 0.0
    first_class = explanation(quarter)._replace(subject=Subject(tf.zeros([2], tf.int64)))
    values = faithfulness.measurer(model, CLASSIFICATION, steps=2)(tf.constant(images), first_class, None)
    np.testing.assert_array_equal(values["increase_in_confidence"], [1.0, 1.0])
    np.testing.assert_array_equal(values["average_drop"], [0.0, 0.0])


def test_with_masks_the_region_is_measured():
    inputs = keras.Input([SIDE, SIDE, 1])
    outputs = keras.layers.Conv2D(2, 1)(inputs)
    pixels = keras.Model(inputs, outputs)
    pixels.layers[-1].set_weights([np.array([[[[0.0, 0.05]]]], np.float32), np.array([0.0, -2.0], np.float32)])
    images = np.full((2, SIDE, SIDE, 1), 100.0, np.float32)
    region = np.zeros((2, SIDE, SIDE), bool)
    region[:, :4] = True
    measure = faithfulness.measurer(pixels, SEGMENTATION, steps=4)
    values = measure(tf.constant(images), explanation(region[0], tf.constant(region)), tf.constant(region))
    np.testing.assert_allclose(values["deletion_auc"], probability(100.0), rtol=1e-5)  # the images have one colour
    np.testing.assert_array_equal(values["average_drop"], [0.0, 0.0])
    elsewhere = measure(tf.constant(images), explanation(~region[0], tf.constant(region)), tf.constant(region))
    np.testing.assert_allclose(elsewhere["average_drop"], 1.0 - probability(0.0) / probability(100.0), rtol=1e-5)


def test_pointing_and_energy():
    heatmaps = np.zeros((4, 4, 4), np.float32)
    inside = np.zeros((4, 4, 4), bool)
    inside[:3, :2] = True
    heatmaps[0, 0, 0], heatmaps[0, 3, 3] = 1.0, 0.5  # the hottest pixel is inside
    heatmaps[1, 3, 0], heatmaps[1, 0, 0] = 1.0, 0.25  # the hottest pixel is outside
    heatmaps[3] = 1.0  # the class is not in the image; the third map is empty
    probe = faithfulness.Probe(
        tf.zeros([4, 4, 4, 3]), tf.constant(heatmaps), tf.constant(inside), lambda images: tf.zeros([4]), 2
    )
    computed = {metric.name: metric.compute(probe) for metric in faithfulness.METRICS if metric.needs_regions}
    np.testing.assert_array_equal(computed["pointing_game"], [1.0, 0.0, 0.0, np.nan])
    np.testing.assert_allclose(computed["energy_inside"], [1 / 1.5, 0.2, 0.0, np.nan])
