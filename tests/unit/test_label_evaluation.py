"""Counts and metrics of classification: equal to scikit-learn, in any order, and of bounded size."""

import numpy as np
import pytest
import sklearn.metrics

from trainer_module import tasks
from trainer_module.evaluation import labels as label_evaluation
from trainer_module.evaluation.confusion_matrix import ConfusionMatrix, mean_over_classes, mean_weighted_by_support
from trainer_module.evaluation.labels import LabelAccumulator
from trainer_module.evaluation.spec import Parameters


def count(labels, probabilities, top_k=2):
    accumulator = LabelAccumulator(Parameters(probabilities.shape[1], top_k))
    for label, row in zip(labels, probabilities, strict=True):
        accumulator.add((int(label), row))
    return accumulator


def metrics_of(accumulator):
    summary = accumulator.summarize()
    return {metric.name: metric.compute(summary) for metric in label_evaluation.metrics(top_k=2)}


def draw(rng, count, classes=4):
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def roc_areas(labels, probabilities):
    return [sklearn.metrics.roc_auc_score(labels == i, row) for i, row in enumerate(probabilities.T)]


def test_metrics_equal_those_of_scikit_learn(rng):
    labels, probabilities = draw(rng, 1000)
    summary = count(labels, probabilities).summarize()
    guesses = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(summary.matrix.counts, sklearn.metrics.confusion_matrix(labels, guesses))
    np.testing.assert_allclose(summary.auc, roc_areas(labels, probabilities), atol=1e-9)
    exact = probabilities.astype(float) / probabilities.astype(float).sum(axis=1, keepdims=True)
    assert summary.cross_entropy == pytest.approx(sklearn.metrics.log_loss(labels, exact), abs=1e-6)
    assert summary.top_k_accuracy == sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=2)
    matrix = summary.matrix
    expected = sklearn.metrics.precision_recall_fscore_support(labels, guesses)
    np.testing.assert_allclose([matrix.precision, matrix.recall, matrix.f1, matrix.support], expected)
    np.testing.assert_allclose(matrix.iou, sklearn.metrics.jaccard_score(labels, guesses, average=None))


def test_a_new_metric_is_one_entry_of_the_task(rng, kappa):
    labels, probabilities = draw(rng, 300)
    summary = count(labels, probabilities).summarize()
    (metric,) = [metric for metric in tasks.get("classification").evaluation.metrics(2) if metric.name == kappa.name]
    expected = sklearn.metrics.cohen_kappa_score(labels, probabilities.argmax(axis=1))
    assert metric.compute(summary) == pytest.approx(expected) and 0.3 < expected < 0.9


def test_merged_counts_equal_those_of_all_examples(rng):
    labels, probabilities = draw(rng, 700)
    whole = count(labels, probabilities).summarize()
    accumulator = LabelAccumulator(Parameters(4, 2))
    for part in np.array_split(rng.permutation(700), 7):
        accumulator.merge(count(labels[part], probabilities[part]))
    merged = accumulator.summarize()
    np.testing.assert_array_equal(merged.matrix.counts, whole.matrix.counts)
    np.testing.assert_array_equal(merged.auc, whole.auc)
    np.testing.assert_allclose(merged.bins, whole.bins)
    assert merged.cross_entropy == pytest.approx(whole.cross_entropy)
    assert merged.top_k_accuracy == whole.top_k_accuracy


def test_scores_stay_bounded_and_nearly_exact(rng, monkeypatch):
    monkeypatch.setattr(label_evaluation, "_MAX_SCORES", 2000)
    monkeypatch.setattr(label_evaluation, "_MAX_PENDING", 400)
    labels, probabilities = draw(rng, 5000)
    accumulator = count(labels, probabilities)
    other = count(*draw(rng, 50))
    assert len(accumulator._scores._counts.keys) <= 2000
    np.testing.assert_allclose(accumulator.summarize().auc, roc_areas(labels, probabilities), atol=2e-3)
    other.merge(accumulator)
    assert len(other._scores._counts.keys) <= 2000
    assert other._scores._counts.counts.sum() == 4 * 5050


def test_ties_count_half():
    # One image of class 1 has the same score as the only other image, one a higher score.
    accumulator = count([0, 1, 1], np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]], np.float32))
    np.testing.assert_array_equal(accumulator.summarize().auc, [0.75, 0.75])


def test_undefined_values_are_nan():
    summary = count([0, 0], np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)).summarize()
    matrix = summary.matrix
    assert matrix.recall[0] == 0.5 and np.isnan(matrix.recall[1])
    assert matrix.precision[1] == matrix.f1[1] == 0.0  # predicted once
    assert np.isnan(summary.auc).all()
    assert mean_over_classes(matrix.recall) == 0.5 and mean_weighted_by_support(matrix.recall, matrix.support) == 0.5
    empty = LabelAccumulator(Parameters(2, 1)).summarize()
    assert np.isnan([empty.cross_entropy, empty.top_k_accuracy, empty.matrix.accuracy, empty.calibration_error]).all()


def test_averages_of_a_class_that_is_only_predicted_equal_those_of_scikit_learn():
    labels, guesses = [0, 0, 1, 1], [0, 2, 1, 1]
    values = metrics_of(count(labels, np.eye(3, dtype=np.float32)[guesses]))
    for average in ("macro", "weighted"):
        expected = sklearn.metrics.precision_recall_fscore_support(labels, guesses, average=average, zero_division=0.0)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert values[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)
    assert values["precision"][2] == 0.0 and np.isnan(values["recall"][2])


def test_precision_of_a_class_that_is_never_predicted_is_0():
    assert ConfusionMatrix(np.array([[3, 0], [2, 0]])).precision.tolist() == [0.6, 0.0]


def test_confidences_on_the_edge_of_a_bin_belong_to_the_lower_one():
    summary = count([0, 0, 1], np.array([[1.0, 0.0], [0.6, 0.4], [0.6, 0.4]], np.float32)).summarize()
    number, confidence, correct = summary.bins
    assert number[14] == 1 and number[8] + number[9] == 2
    assert correct.sum() == 2 and confidence.sum() == pytest.approx(2.2)
    assert summary.calibration_error == pytest.approx((0 + abs(1.2 - 1)) / 3)


def test_probabilities_that_are_not_finite_are_rejected():
    with pytest.raises(ValueError, match="not finite"):
        LabelAccumulator(Parameters(2, 1)).add((0, np.array([np.nan, 1.0], np.float32)))


@pytest.mark.parametrize(
    ("label", "row", "message"),
    [
        (-1, [0.5, 0.5], "label -1 is not the id of one of 2 classes"),
        (2, [0.5, 0.5], "label 2 is not the id of one of 2 classes"),
        (0, [1.0], "1 probabilities do not fit 2 classes"),
    ],
)
def test_labels_and_probabilities_that_do_not_fit_the_classes_are_rejected(label, row, message):
    with pytest.raises(ValueError, match=message):
        LabelAccumulator(Parameters(2, 1)).add((label, np.array(row, np.float32)))
