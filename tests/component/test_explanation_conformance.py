"""Conformance: explanations of every task with every model."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import faithfulness, grad_cam, models, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Subject

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
    last = explain(images, Subject(tf.fill([BATCH], tf.constant(len(CLASSES) - 1, tf.int64))))
    for explained in (predicted, last):
        heatmaps = explained.heatmap.numpy()
        assert heatmaps.shape == (BATCH, SIZE, SIZE) and heatmaps.dtype == np.float32
        assert np.isfinite(heatmaps).all() and heatmaps.min() >= 0.0 and heatmaps.max() <= 1.0
        assert explained.subject.class_ids.dtype == tf.int64 and explained.subject.class_ids.shape == (BATCH,)
        assert np.isin(explained.subject.class_ids, range(len(CLASSES))).all()
        score = explained.score.numpy()
        assert score.shape == (BATCH,) and score.min() >= 0.0 and score.max() <= 1.0
        outputs = outputs_of(model, images)
        np.testing.assert_allclose(score, explanation.score(outputs, explained.subject), atol=1e-5)
        assert (explained.subject.regions is not None) == explanation.has_regions
        if explanation.has_regions:
            assert explained.subject.regions.shape == (BATCH, SIZE, SIZE) and explained.subject.regions.dtype == tf.bool
        target = explanation.target(outputs, explained.subject, (SIZE, SIZE))
        assert target.logit.shape == (BATCH,)
        np.testing.assert_array_equal(target.subject.class_ids, explained.subject.class_ids)
    np.testing.assert_array_equal(last.subject.class_ids, np.full(BATCH, len(CLASSES) - 1))


def test_the_score_rises_with_the_explained_logit(case, images):
    task, _, model = case
    explanation = task.explanation
    outputs = outputs_of(model, images)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        target = explanation.target(outputs, Subject(), (SIZE, SIZE))
        total = tf.reduce_sum(target.logit)
    gradients = tape.gradient(total, outputs, unconnected_gradients="zero")
    raised = tf.nest.map_structure(lambda output, gradient: output + tf.sign(gradient), outputs, gradients)
    before = explanation.score(outputs, target.subject)
    after = explanation.score(raised, target.subject)
    assert np.all(after > before) and np.all(after <= 1.0)


def as_tensors(subject):
    return Subject(*(None if values is None else tf.constant(values) for values in subject))


def are_distinct(instances):
    """Whether example, class and id identify an instance."""
    ids = np.zeros_like(instances.indices) if instances.ids is None else instances.ids
    rows = np.stack([instances.indices, instances.subject.class_ids, ids])
    return np.unique(rows, axis=1).shape == rows.shape


def test_every_prediction_of_an_image_is_explained_on_its_own(case, explain, images):
    task, chosen, model = case
    explanation = task.explanation
    if explanation.predicted_instances is None:
        return  # `target` chooses the only prediction of an image
    outputs = outputs_of(model, images)
    instances = explanation.predicted_instances(outputs, tf.constant([[SIZE, SIZE]] * BATCH), chosen)
    assert set(instances.indices.tolist()) == set(range(BATCH)) and are_distinct(instances)
    subject = as_tensors(instances.subject)
    together = explain(tf.gather(images, instances.indices), subject)
    for index in (0, len(instances.indices) - 1):
        one = Subject(*(None if values is None else values[index : index + 1] for values in subject))
        number = instances.indices[index]
        alone = explain(images[number : number + 1], one)
        np.testing.assert_allclose(alone.heatmap[0], together.heatmap[index], atol=1e-4)
        np.testing.assert_allclose(alone.score[0], together.score[index], atol=1e-5)
    assert (together.boxes is not None) == (explanation.boxes is not None)
    # The first of an image is one that `explain` without a subject could choose: nothing has a larger score.
    best = np.full(BATCH, 0.0)
    np.maximum.at(best, instances.indices, together.score.numpy())
    np.testing.assert_allclose(best, explain(images).score, atol=1e-5)


def test_outcomes_compare_predictions_with_the_ground_truth(case, explain, images):
    task, chosen, _ = case
    explanation = task.explanation
    ground_truth = ground_truth_of(task, chosen)
    assert len(ground_truth) == BATCH
    indices, (class_ids, regions, positions), _ = instances = explanation.true_instances(ground_truth, chosen)
    assert set(indices.tolist()) == set(range(BATCH)) and len(indices) == len(class_ids)
    assert class_ids.dtype == np.int64 and np.isin(class_ids, range(len(CLASSES))).all()
    assert positions is None and are_distinct(instances)
    assert (regions is not None) == explanation.has_regions
    if explanation.true_regions:
        assert regions.shape == (len(indices), SIZE, SIZE) and regions.dtype == bool and regions.any(axis=(1, 2)).all()
        true_regions = explanation.true_regions(ground_truth[indices], instances.subject)
        np.testing.assert_array_equal(true_regions, regions)
    explained = explain(tf.gather(images, indices), as_tensors(instances.subject))
    outcomes = explanation.outcomes(explained.outputs, explained.subject, ground_truth[indices], chosen)
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
        true_regions = tf.constant(explanation.true_regions(ground_truth, explained.subject))
    measured = faithfulness.measurer(model, explanation, steps=2)(images, explained, true_regions)
    metrics = {metric.name: metric for metric in faithfulness.metrics_of(explanation)}
    assert measured.keys() == metrics.keys()
    for name, values in measured.items():
        assert values.shape == (BATCH,)
        assert all(np.isnan(value) or metrics[name].allows(float(value)) for value in values), name
