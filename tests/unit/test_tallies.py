"""Counts behind the figures: against scikit-learn, in any order, and bounded."""

import numpy as np
import pytest
import sklearn.metrics

from components.evaluator import metrics, tallies
from components.evaluator.tallies import LabelTally


def tally_of(labels, probabilities, top_k=2):
    tally = LabelTally(probabilities.shape[1], top_k)
    for label, row in zip(labels, probabilities, strict=True):
        tally.add(int(label), row)
    return tally


def draw(rng, count, classes=4):
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def areas(labels, probabilities):
    return [sklearn.metrics.roc_auc_score(labels == i, row) for i, row in enumerate(probabilities.T)]


def test_figures_are_scikit_learns(rng):
    labels, probabilities = draw(rng, 1000)
    tally = tally_of(labels, probabilities)
    guesses = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(tally.matrix(), sklearn.metrics.confusion_matrix(labels, guesses))
    np.testing.assert_allclose(tally.auc(), areas(labels, probabilities), atol=1e-9)
    exact = probabilities.astype(float) / probabilities.astype(float).sum(axis=1, keepdims=True)
    assert tally.cross_entropy() == pytest.approx(sklearn.metrics.log_loss(labels, exact), abs=1e-6)
    assert tally.top_k_accuracy() == sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=2)
    expected = sklearn.metrics.precision_recall_fscore_support(labels, guesses)
    np.testing.assert_allclose(tallies.class_figures(tally.matrix()), expected)


def test_merged_tallies_are_the_tally_of_all(rng):
    labels, probabilities = draw(rng, 700)
    whole = tally_of(labels, probabilities)
    merged = LabelTally(4, 2)
    for part in np.array_split(rng.permutation(700), 7):
        merged.merge(tally_of(labels[part], probabilities[part]))
    np.testing.assert_array_equal(merged.matrix(), whole.matrix())
    np.testing.assert_array_equal(merged.auc(), whole.auc())
    np.testing.assert_allclose(merged.bins(), whole.bins())
    assert merged.cross_entropy() == pytest.approx(whole.cross_entropy())
    assert merged.top_k_accuracy() == whole.top_k_accuracy()


def test_scores_stay_bounded_and_nearly_exact(rng, monkeypatch):
    monkeypatch.setattr(tallies, "_MAX_SCORES", 2000)
    monkeypatch.setattr(tallies, "_MAX_PENDING", 400)
    labels, probabilities = draw(rng, 5000)
    tally = tally_of(labels, probabilities)
    other = tally_of(*draw(rng, 50))
    assert len(tally._scores._counts.keys) <= 2000
    np.testing.assert_allclose(tally.auc(), areas(labels, probabilities), atol=2e-3)
    other.merge(tally)
    assert len(other._scores._counts.keys) <= 2000
    assert other._scores._counts.counts.sum() == 4 * 5050


def test_ties_count_half():
    # One of class 1 has the same score as the only other example, one a higher one.
    tally = tally_of([0, 1, 1], np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]], np.float32))
    np.testing.assert_array_equal(tally.auc(), [0.75, 0.75])


def test_what_does_not_exist_is_nan():
    tally = tally_of([0, 0], np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    figures = tallies.class_figures(tally.matrix())
    assert figures.recall[0] == 0.5 and np.isnan(figures.recall[1])
    assert figures.precision[1] == figures.f1[1] == 0.0  # predicted once
    assert np.isnan(tally.auc()).all()
    assert tallies.macro(figures.recall) == 0.5 and tallies.weighted(figures.recall, figures.support) == 0.5
    empty = LabelTally(2, 1)
    assert np.isnan([empty.cross_entropy(), empty.top_k_accuracy(), tallies.accuracy(empty.matrix())]).all()


def test_a_class_that_is_only_predicted_costs_what_it_costs_in_scikit_learn():
    labels, guesses = [0, 0, 1, 1], [0, 2, 1, 1]
    overall, per_class = metrics.label_results(tally_of(labels, np.eye(3, dtype=np.float32)[guesses]))
    for average in ("macro", "weighted"):
        expected = sklearn.metrics.precision_recall_fscore_support(labels, guesses, average=average, zero_division=0.0)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert overall[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)
    assert per_class["precision"][2] == 0.0 and np.isnan(per_class["recall"][2])


def test_a_class_that_is_never_predicted_has_a_precision_of_0():
    assert tallies.class_figures(np.array([[3, 0], [2, 0]])).precision.tolist() == [0.6, 0.0]


def test_confidences_on_the_edge_of_a_bin_belong_to_the_lower_one():
    tally = tally_of([0, 0, 1], np.array([[1.0, 0.0], [0.6, 0.4], [0.6, 0.4]], np.float32))
    count, confidence, right = tally.bins()
    assert count[14] == 1 and count[8] + count[9] == 2
    assert right.sum() == 2 and confidence.sum() == pytest.approx(2.2)
    assert tally.expected_calibration_error() == pytest.approx((0 + abs(1.2 - 1)) / 3)


def test_what_is_no_number_is_no_probability():
    with pytest.raises(ValueError, match="not finite"):
        LabelTally(2, 1).add(0, np.array([np.nan, 1.0], np.float32))


@pytest.mark.parametrize(("label", "row"), [(-1, [0.5, 0.5]), (2, [0.5, 0.5]), (0, [1.0])])
def test_what_does_not_belong_is_refused(label, row):
    with pytest.raises(ValueError, match="do not belong to 2 classes"):
        LabelTally(2, 1).add(label, np.array(row, np.float32))
