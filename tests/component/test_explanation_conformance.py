"""Conformance: explanations of every task with every model."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import faithfulness, grad_cam, models, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions

STATISTICS = PixelStatistics(np.full(3, 110.0, np.float32), np.full(3, 900.0, np.float32))
CLASSES, SIZE, BATCH = ("a", "b", "c"), 32, 4


def options(task, model):
    has_backbone = models.get(model).options().has_backbone()
    return TrainerOptions(
        classes=CLASSES,
        ignore_id=255,
        transform={"image_size": SIZE, "normalization": "backbone" if has_backbone else "dataset"},
        task={"name": task},
        model={"name": model, "weights": "none"} if has_backbone else {"name": model},
    )


def ground_truth_of(task, options):
    """Labels of examples with one or two classes each."""
    class_ids = [(0,), (1, 2), (2, 0), (1,)]
    raw_labels = [task.example_label(ids, CLASSES, SIZE) for ids in class_ids]
    labels = task.labels(raw_labels, [(SIZE, SIZE)] * len(raw_labels), options).numpy()
    if labels.shape == (BATCH, SIZE, SIZE):
        labels[:, 0] = options.ignore_id
    return labels


def outputs_of(model, images):
    return grad_cam.as_float32(model(tf.cast(images, tf.float32), training=False))


@pytest.fixture
def images(rng):
    return tf.constant(rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8))


@pytest.fixture(
    scope="module", params=[(task, model) for task in tasks.names() for model in models.names()], ids="-".join
)
def case(request, small_backbones):
    task, model = request.param
    # One case has a real backbone; the others would only take longer with it.
    with nullcontext() if request.param == ("classification", "transfer") else small_backbones():
        chosen = options(task, model)
        return tasks.get(task), chosen, build_network(chosen, STATISTICS)


@pytest.fixture(scope="module")
def explain(case):
    """Explains batches; traced once for all tests of a case."""
    task, _, model = case
    return grad_cam.explainer(model, task.explanation)


def test_explanations_have_the_documented_shapes_and_ranges(case, explain, images):
    task, _, model = case
    explanation = task.explanation
    predicted = explain(images)
    last = explain(images, tf.fill([BATCH], tf.constant(len(CLASSES) - 1, tf.int64)))
    for explained in (predicted, last):
        heatmaps = explained.heatmap.numpy()
        assert heatmaps.shape == (BATCH, SIZE, SIZE) and heatmaps.dtype == np.float32
        assert np.isfinite(heatmaps).all() and heatmaps.min() >= 0.0 and heatmaps.max() <= 1.0
        assert explained.class_id.dtype == tf.int64 and explained.class_id.shape == (BATCH,)
        assert np.isin(explained.class_id, range(len(CLASSES))).all()
        score = explained.score.numpy()
        assert score.shape == (BATCH,) and score.min() >= 0.0 and score.max() <= 1.0
        outputs = outputs_of(model, images)
        np.testing.assert_allclose(score, explanation.score(outputs, explained.class_id, explained.region), atol=1e-5)
        assert (explained.region is not None) == explanation.has_regions
        if explanation.has_regions:
            assert explained.region.shape == (BATCH, SIZE, SIZE) and explained.region.dtype == tf.bool
        target = explanation.target(outputs, explained.class_id, explained.region, (SIZE, SIZE))
        assert target.logit.shape == (BATCH,)
        np.testing.assert_array_equal(target.class_ids, explained.class_id)
    np.testing.assert_array_equal(last.class_id, np.full(BATCH, len(CLASSES) - 1))


def test_the_score_rises_with_the_explained_logit(case, images):
    task, _, model = case
    explanation = task.explanation
    outputs = outputs_of(model, images)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        target = explanation.target(outputs, None, None, (SIZE, SIZE))
        total = tf.reduce_sum(target.logit)
    gradients = tape.gradient(total, outputs, unconnected_gradients="zero")
    raised = tf.nest.map_structure(lambda output, gradient: output + tf.sign(gradient), outputs, gradients)
    before = explanation.score(outputs, target.class_ids, target.regions)
    after = explanation.score(raised, target.class_ids, target.regions)
    assert np.all(after > before) and np.all(after <= 1.0)


def test_outcomes_compare_predictions_with_the_ground_truth(case, explain, images):
    task, chosen, _ = case
    explanation = task.explanation
    ground_truth = ground_truth_of(task, chosen)
    assert len(ground_truth) == BATCH
    indices, class_ids = explanation.true_classes(ground_truth, chosen)
    assert set(indices.tolist()) == set(range(BATCH)) and len(indices) == len(class_ids)
    assert class_ids.dtype == np.int64 and np.isin(class_ids, range(len(CLASSES))).all()
    regions = None
    if explanation.true_regions:
        regions = tf.constant(explanation.true_regions(ground_truth[indices], class_ids, (SIZE, SIZE)))
        assert regions.shape == (len(indices), SIZE, SIZE) and regions.dtype == tf.bool
        assert np.all(tf.reduce_any(regions, axis=[1, 2]))
    explained = explain(tf.gather(images, indices), tf.constant(class_ids), regions)
    outcomes = explanation.outcomes(
        explained.outputs, explained.class_id, explained.region, ground_truth[indices], chosen
    )
    for ids in (outcomes.predicted_ids, outcomes.listed_ids, outcomes.true_ids):
        assert ids is None or (len(ids) == len(indices) and np.isin(ids, range(-1, len(CLASSES))).all())
    assert outcomes.predicted_ids.min() >= 0
    for values in (outcomes.confidence, outcomes.margin):
        assert len(values) == len(indices) and values.min() >= 0.0 and values.max() <= 1.0
    assert outcomes.correct.dtype == outcomes.exists.dtype == bool
    assert outcomes.exists.all() and len(outcomes.correct) == len(indices)
    assert "b" in explanation.incorrect_caption.format(label="a", predicted="b")


def test_every_faithfulness_metric_of_the_task_is_in_its_range(case, explain, images):
    task, chosen, model = case
    explanation = task.explanation
    explained = explain(images)
    true_regions = None
    if explanation.true_regions:
        ground_truth = ground_truth_of(task, chosen)
        true_regions = tf.constant(explanation.true_regions(ground_truth, explained.class_id.numpy(), (SIZE, SIZE)))
    measured = faithfulness.measurer(model, explanation, steps=2)(images, explained, true_regions)
    metrics = {metric.name: metric for metric in faithfulness.metrics_of(explanation)}
    assert measured.keys() == metrics.keys()
    for name, values in measured.items():
        assert values.shape == (BATCH,)
        assert all(np.isnan(value) or metrics[name].allows(float(value)) for value in values), name
