"""Conformance: properties that the drawing of every task has."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import network, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import AugmentationOptions, TrainerOptions, TransformOptions

SIDE = 16
CLASSES = ("background", "cat", "dog")


@pytest.fixture(params=tasks.names())
def task(request):
    return tasks.get(request.param)


@pytest.fixture
def options(task):
    return TrainerOptions(
        classes=CLASSES,
        transform=TransformOptions(image_size=SIDE),
        model={"name": "unet", "depth": 1, "filters": 4},
        task={"name": task.name},
        augmentation=AugmentationOptions(horizontal_flip=True, rotation=0.1),
    )


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def labels(task, options):
    class_ids = [(1,), (2, 1), (0, 2), (1,)]
    raw_labels = [task.example_label(ids, CLASSES, SIDE) for ids in class_ids]
    return task.labels(raw_labels, [(SIDE, SIDE)] * len(raw_labels), options).numpy()


@pytest.fixture
def predictions(task, options, images):
    statistics = PixelStatistics(np.full(3, 120.0, np.float32), np.full(3, 4000.0, np.float32))
    return task.decode(network.build(options, statistics)(images, training=False), options).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_labels_and_predictions_are_drawn_over_their_image(task, images, labels, predictions, channels):
    for drawn in (labels, predictions):
        for image, value in zip(images[..., :channels], drawn, strict=True):
            before = image.copy()
            for scale in (1, 3):
                pixels = task.drawing.draw(image, value, CLASSES, None, scale)
                assert (pixels.shape, pixels.dtype) == ((scale * SIDE, scale * SIDE, 3), np.uint8)
            np.testing.assert_array_equal(image, before)
            assert all(isinstance(line, str) and line for line in task.drawing.caption(value, CLASSES))


def test_labels_are_distinguishable(task, images, labels):
    """Two examples with different labels differ in their caption or in their drawing."""
    seen = {
        (str(task.drawing.caption(label, CLASSES)), task.drawing.draw(images[0], label, CLASSES, None, 2).tobytes())
        for label in labels
    }
    assert len(seen) == len({label.tobytes() for label in labels})


def test_augmented_labels_are_drawn(task, options, images, labels):
    seed = tf.constant([0, 1], tf.int64)
    changed, changed_labels = task.augment(options)(seed, tf.constant(images), tf.constant(labels))
    for image, label in zip(changed.numpy(), changed_labels.numpy(), strict=True):
        pixels = task.drawing.draw(np.clip(image, 0, 255).astype(np.uint8), label, CLASSES, None, 1)
        assert (pixels.shape, pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)


def test_the_legend_names_classes_in_different_colours(task, labels):
    legend = task.drawing.legend(CLASSES, 255, None)
    assert len({color for _, color in legend}) == len(legend)
    assert {name for name, _ in legend} >= (set(CLASSES) if legend else set())
    assert set(task.drawing.legend(CLASSES, 255, list(labels))) <= set(legend)


@pytest.mark.parametrize(
    "task", [name for name in tasks.names() if tasks.get(name).drawing.comparison is not None], indirect=True
)
def test_a_comparison_scores_and_shows_predictions(task, options, images, labels, predictions):
    comparison = task.drawing.comparison
    assert comparison.score_name and comparison.note(options).endswith(".")
    for image, label, prediction in zip(images, labels, predictions, strict=True):
        counted = comparison.counted(prediction, options)
        assert (counted.shape, counted.dtype) == (prediction.shape, prediction.dtype)
        assert 0.0 <= comparison.score(label, prediction, None) <= 1.0
        assert comparison.error_type(label, prediction, None) in (*comparison.error_types, "")
        assert isinstance(comparison.main_error(label, prediction, CLASSES, None), str)
        panels = comparison.panels(image, label, prediction, CLASSES, None)
        assert len({panel.title for panel in panels}) == len(panels) > 0
        for panel in panels:
            height, width, channels = panel.pixels.shape
            assert height == width and height % SIDE == 0 and channels == 3
            assert panel.pixels.dtype == np.uint8 and panel.description
