"""Counts and metrics of multi-label classification: equal to scikit-learn, in any order, and of bounded size."""

import math
import pickle

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference

from trainer_module import features
from trainer_module.evaluation import label_sets, score_counts
from trainer_module.evaluation.baselines import CORRECT, OCCURRING, PREDICTED
from trainer_module.evaluation.label_sets import LabelSetAccumulator, PredictedSet
from trainer_module.evaluation.spec import IMAGES, Parameters, SharedIds

TOLERANCE = 1e-6


def draw(rng, count=400, classes=5, decimals=None):
    """Labels of different frequency, some images without any, and scores that agree with them somewhat."""
    labels = rng.random((count, classes)) < np.linspace(0.05, 0.6, classes)
    logits = rng.normal(0, 1.2, (count, classes)) + 1.5 * labels - 1.0
    probabilities = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    if decimals is not None:  # many ties
        probabilities = probabilities.round(decimals)
    return labels, probabilities, probabilities >= np.linspace(0.3, 0.6, classes)


def count(labels, probabilities, predicted):
    accumulator = LabelSetAccumulator(Parameters(labels.shape[1], 2))
    for element in zip(labels, predicted, probabilities, strict=True):
        accumulator.add(PredictedSet(*element))
    return accumulator


def metrics_of(accumulator):
    summary = accumulator.summarize()
    return {metric.name: metric.compute(summary) for metric in label_sets.metrics(2)}


@pytest.mark.parametrize("decimals", [None, 1])
def test_metrics_equal_those_of_scikit_learn(rng, decimals):
    labels, scores, predicted = draw(rng, decimals=decimals)
    computed = metrics_of(count(labels, scores, predicted))
    expected = {
        "macro_average_precision": reference.average_precision_score(labels, scores, average="macro"),
        "micro_average_precision": reference.average_precision_score(labels, scores, average="micro"),
        "average_precision": reference.average_precision_score(labels, scores, average=None),
        "micro_auc": reference.roc_auc_score(labels, scores, average="micro"),
        "samples_average_precision": reference.label_ranking_average_precision_score(labels, scores),
        "macro_auc": reference.roc_auc_score(labels, scores, average="macro"),
        "auc": reference.roc_auc_score(labels, scores, average=None),
        "exact_match": reference.accuracy_score(labels, predicted),
        "hamming_loss": reference.hamming_loss(labels, predicted),
        "binary_cross_entropy": reference.log_loss(
            labels.ravel(), np.clip(scores.ravel().astype(float), 1e-7, 1 - 1e-7)
        ),
    }
    for average, prefix in ((None, ""), ("macro", "macro_"), ("micro", "micro_"), ("samples", "samples_")):
        values = reference.precision_recall_fscore_support(labels, predicted, average=average, zero_division=1)
        expected |= {
            f"{prefix}{name}": value for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, atol=TOLERANCE, err_msg=name)
    assert set(computed) - set(expected) == {"expected_calibration_error"}


def test_calibration_error_is_the_distance_of_probability_and_frequency(rng):
    labels, scores, predicted = draw(rng)
    bins = np.clip(np.ceil(scores.astype(float) * label_sets.NUM_BINS).astype(int) - 1, 0, None)
    parts = [(bins == index) for index in range(label_sets.NUM_BINS)]
    expected = sum(part.sum() * abs(scores[part].mean() - labels[part].mean()) for part in parts if part.any())
    computed = metrics_of(count(labels, scores, predicted))["expected_calibration_error"]
    assert computed == pytest.approx(expected / scores.size, abs=TOLERANCE)


def test_images_without_classes_and_classes_without_images():
    labels = np.array([[1, 0, 0], [0, 0, 0]], bool)
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.1, 0.3]], np.float32)
    computed = metrics_of(count(labels, scores, np.array([[1, 0, 0], [0, 0, 0]], bool)))
    assert computed["samples_f1"] == computed["exact_match"] == computed["micro_f1"] == 1.0
    # Classes that neither occur nor are predicted have no effect on the means.
    assert computed["macro_f1"] == computed["macro_average_precision"] == 1.0
    assert np.isnan(computed["average_precision"]).tolist() == [False, True, True]
    computed = metrics_of(count(labels, scores, np.array([[0, 1, 0], [0, 0, 0]], bool)))
    assert computed["samples_f1"] == 0.5 and computed["macro_precision"] == 0.0


def test_merged_counts_equal_those_of_all_examples(rng):
    labels, scores, predicted = draw(rng)
    whole = count(labels, scores, predicted)
    merged = LabelSetAccumulator(Parameters(5, 2))
    for part in np.array_split(rng.permutation(len(labels)), 7):
        merged.merge(pickle.loads(pickle.dumps(count(labels[part], scores[part], predicted[part]))))
    for name, value in metrics_of(merged).items():
        np.testing.assert_allclose(value, metrics_of(whole)[name], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(merged.summarize().matrix, whole.summarize().matrix)


def test_memory_is_bounded_and_the_rest_is_almost_exact(rng, monkeypatch):
    monkeypatch.setattr(label_sets, "_MAX_SCORES", 2000)
    monkeypatch.setattr(label_sets, "_MAX_SCORES_PER_CLASS", 10)
    labels, scores, predicted = draw(rng, 20_000)
    accumulator = count(labels, scores, predicted)
    expected = reference.average_precision_score(labels, scores, average="macro")
    assert metrics_of(accumulator)["macro_average_precision"] == pytest.approx(expected, abs=5e-3)
    assert len(pickle.dumps(accumulator)) < 100_000


def test_confusions_pair_missed_classes_with_those_that_are_predicted_instead():
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], bool)
    predicted = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], bool)
    scores = np.array([[0.9, 0.4, 0.6, 0.8], [0.3, 0.1, 0.1, 0.1], [0.1, 0.7, 0.2, 0.9]], np.float32)
    summary = count(labels, scores, predicted).summarize()
    expected = np.zeros((5, 5), int)
    expected[0, 0] = expected[3, 3] = 1
    expected[1, 3] = 1  # the missed class and the wrong one with the highest probability
    expected[4, 2] = expected[4, 1] = 1  # predicted without a missed class
    expected[0, 4] = 1  # missed, and nothing predicted instead
    np.testing.assert_array_equal(summary.matrix, expected)
    np.testing.assert_array_equal(summary.matrix.sum(axis=1)[:4], summary.support)
    np.testing.assert_array_equal(summary.matrix.sum(axis=0)[:4], summary.predicted)
    np.testing.assert_array_equal(summary.co_occurrence, labels.T.astype(int) @ labels.astype(int))


def test_details_contain_the_interpolated_precision(rng):
    labels, scores, predicted = draw(rng)
    details = label_sets.EVALUATION.details(count(labels, scores, predicted).summarize())
    for index, curve in enumerate(details["precision_by_recall"]):
        precision, recall, _ = reference.precision_recall_curve(labels[:, index], scores[:, index])
        expected = [precision[recall >= wanted - 1e-12].max() for wanted in np.linspace(0, 1, 101)]
        # The last point of scikit-learn's curve, recall 0 and precision 1, belongs to no threshold.
        np.testing.assert_allclose(curve[1:], expected[1:], atol=1e-4)
    assert details["co_occurrence"].shape == (5, 5)


def test_scores_of_all_classes_together():
    counts = score_counts.ScoreCounts(1000)
    counts.add(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32), np.array([[True, False], [False, True]]))
    pooled = counts.of_all_classes()
    assert pooled.scores.tolist() == [0.25, 0.5, 0.75]
    assert pooled.positives.tolist() == [0, 1, 1] and pooled.negatives.tolist() == [1, 1, 0]


# === Elements ===


def element(label, predicted, probabilities, shared=None, num_classes=3):
    outputs = {"predicted": np.array(predicted, bool), "probabilities": np.array(probabilities, np.float32)}
    parameters = Parameters(num_classes, 2, shared=shared)
    return label_sets.EVALUATION.element({features.LABEL: np.array(label, np.float32)}, outputs, parameters)


def test_unknown_classes_are_an_error_unless_only_shared_ones_count():
    with pytest.raises(ValueError, match="a class that the model does not know"):
        element([-1, -2, -2], [1, 0, 0], [0.9, 0.1, 0.1])
    shared = SharedIds(model=(1, -1, 0), dataset=(0, 1))
    read = element([-1, -2, -2], [1, 1, 0], [0.9, 0.8, 0.1], shared, num_classes=2)
    assert read.label.tolist() == [False, True] and read.predicted.tolist() == [False, True]
    np.testing.assert_allclose(read.probabilities, [0.1, 0.9])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([True], [True], [0.5]), "the label has 1 values for 2 classes"),
        (([True, False], [True], [0.5, 0.5]), "the prediction has 1 values for 2 classes"),
        (([True, False], [True, False], [0.5]), "1 probabilities do not fit 2 classes"),
        (([True, False], [True, False], [0.5, math.nan]), "not finite"),
    ],
)
def test_invalid_elements_are_refused(values, message):
    label, predicted, probabilities = values
    read = PredictedSet(np.array(label), np.array(predicted), np.array(probabilities, np.float32))
    with pytest.raises(ValueError, match=message):
        LabelSetAccumulator(Parameters(2, 2)).add(read)


# === Baselines ===


def evidence(images, support, predicted, correct):
    values = {OCCURRING: support, PREDICTED: predicted, CORRECT: correct, IMAGES: [images]}
    return {name: np.array(counts) for name, counts in values.items()}


def compare(name, counts):
    (baseline,) = [each for each in label_sets.CONSTANT_BASELINES if each.name == name]
    return baseline.compare(counts, ["a", "b"])


@pytest.mark.parametrize("baseline", ["constant", "chance"])
@pytest.mark.parametrize(
    ("counts", "passed"),
    [
        ((100, [40, 3], [40, 3], [40, 3]), True),
        ((100, [40, 3], [45, 0], [36, 0]), True),
        ((100, [40, 3], [100, 0], [40, 0]), False),  # the same for every image
        ((100, [40, 3], [50, 10], [20, 0]), False),  # guesses
        ((100, [40, 3], [50, 10], [0, 0]), False),  # the opposite
        ((4, [2, 1], [2, 1], [2, 1]), None),  # too few
        ((10, [10, 0], [10, 0], [10, 0]), None),  # nothing to compare
    ],
)
def test_models_must_be_better_than_predictors_that_ignore_the_image(baseline, counts, passed):
    result = compare(baseline, evidence(*counts))
    assert result.passed is passed, result.detail
    assert result.detail


def test_the_test_of_one_class_is_fishers():
    for images, support, predicted, correct in ((50, 20, 25, 15), (50, 20, 25, 10), (30, 1, 3, 1), (9, 4, 4, 4)):
        table = [[correct, predicted - correct], [support - correct, images - support - predicted + correct]]
        expected = scipy.stats.fisher_exact(table, alternative="greater").pvalue
        assert label_sets._upper_tail(images, support, predicted, correct) == pytest.approx(expected, rel=1e-9)


def test_the_balanced_accuracy_is_the_mean_over_the_classes(rng):
    labels, scores, predicted = draw(rng)
    counts = label_sets.EVALUATION.evidence(count(labels, scores, predicted).summarize())
    (baseline,) = [each for each in label_sets.CONSTANT_BASELINES if each.name == "constant"]
    expected = [reference.balanced_accuracy_score(y, p) for y, p in zip(labels.T, predicted.T, strict=True)]
    assert baseline.compare(counts, "abcde").value == pytest.approx(np.mean(expected))
