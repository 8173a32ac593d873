"""Two-sample tests of monitoring, their correction, and the quality by feedback; on arrays with known distributions."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from serving.monitor import drift, quality, two_sample
from trainer_module import image_statistics, monitored
from trainer_module.monitored import (
    MAX_DIMENSIONS,
    MonitoredImages,
    MonitoredPredictions,
    TrainingImages,
    stored_embeddings,
)

CLASSES = ("cat", "dog", "owl")
RATE, MIN_IMAGES = 0.01, 20


def images(rng, num, shift=0.0, shares=(0.5, 0.3, 0.2), **parts):
    """Images whose every value moves with `shift`, in standard deviations."""
    ids = rng.choice(3, num, p=shares)
    logits = rng.normal(0.0, 1.0, (num, 3)) + 3.0 * np.eye(3)[ids]
    scores = np.exp(logits - shift * np.array([1.0, 0.0, 0.0]))
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    values = {
        "statistics": rng.normal(100.0 + 10.0 * shift, 10.0, (num, len(image_statistics.NAMES))).astype(np.float32),
        "embeddings": stored_embeddings(rng.normal(shift, 1.0, (num, 8))),
        "predictions": MonitoredPredictions(scores, scores.argmax(axis=1), scores.max(axis=1)),
        "quality": np.full(num, np.nan, np.float32),
        "labels": [()] * num,
    }
    return MonitoredImages(**values | parts)


def all_tests(reference, window, seed=0):
    return drift.correct(drift.compare(reference, window, CLASSES, RATE, MIN_IMAGES, seed).tests, RATE)


# === Two-sample tests ===


def discrepancy(reference, window):
    """The definition of the unbiased squared discrepancy, pair by pair."""
    everything = np.concatenate([reference, window])
    pairs = [np.sum((a - b) ** 2) for a, b in itertools.combinations(everything, 2)]
    bandwidth = np.median(pairs)

    def kernel(first, second):
        return np.array([[np.exp(-np.sum((a - b) ** 2) / bandwidth) for b in second] for a in first])

    def within(sample):
        values = kernel(sample, sample)
        return (values.sum() - np.trace(values)) / (len(sample) * (len(sample) - 1))

    return within(reference) + within(window) - 2.0 * kernel(reference, window).mean()


def test_the_discrepancy_is_that_of_its_definition(rng):
    reference, window = rng.normal(0.0, 1.0, (15, 3)), rng.normal(0.7, 1.0, (11, 3))
    result = two_sample.maximum_mean_discrepancy(reference, window, 10)
    assert result.statistic == pytest.approx(discrepancy(reference, window), rel=1e-4)


def test_p_values_of_the_discrepancy_are_uniform_without_drift_and_small_with_it(rng):
    clean = [
        two_sample.maximum_mean_discrepancy(rng.normal(size=(60, 4)), rng.normal(size=(40, 4)), 199, seed).p_value
        for seed in range(80)
    ]
    assert stats.kstest(clean, "uniform").pvalue > 0.01
    moved = two_sample.maximum_mean_discrepancy(rng.normal(size=(60, 4)), rng.normal(1.0, 1.0, (40, 4)), 199)
    assert moved.p_value == 1 / 200


def test_equal_vectors_are_no_drift():
    same = np.ones((30, 4))
    assert two_sample.maximum_mean_discrepancy(same, same, 50).p_value == 1.0


def test_rare_classes_are_counted_together(rng):
    reference, window = rng.integers(0, 2, 1000), rng.integers(0, 2, 300)
    clean = two_sample.chi_squared(reference, window, 50)
    assert clean == two_sample.chi_squared(reference, window, 2)
    # One image of each of 30 classes that the reference does not have.
    window[:30] = np.arange(20, 50)
    assert two_sample.chi_squared(reference, window, 50).p_value < 1e-6


def test_no_predicted_class_is_a_class(rng):
    reference, window = np.zeros(500, int), np.zeros(200, int)
    assert two_sample.chi_squared(reference, window, 1).p_value == 1.0
    window[:40] = -1
    assert two_sample.chi_squared(reference, window, 1).p_value < 1e-6


def test_a_larger_mean_is_found_by_permutations(rng):
    # By counting: of all choices of two of five values, those with at least this mean of the squares.
    reference, window = np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0])
    values = np.concatenate([reference, window]) ** 2
    means = [np.mean(chosen) for chosen in itertools.combinations(values, 2)]
    result = two_sample.larger_mean(reference, window, 2, 100_000)
    assert result.p_value == pytest.approx(np.mean(np.array(means) >= values[3:].mean()))
    assert result.statistic == pytest.approx(values[3:].mean() / values[:3].mean() - 1.0)
    clean = [
        two_sample.larger_mean(rng.normal(9.0, size=40), rng.normal(9.0, size=30), 4, 200, seed).p_value
        for seed in range(400)
    ]
    assert 0.02 <= np.mean(np.array(clean) <= 0.05) <= 0.08
    assert two_sample.larger_mean(np.ones(50), np.ones(40), 4, 200).p_value == 1.0
    assert two_sample.larger_mean(np.zeros(50), np.zeros(40), 4, 200).p_value == 1.0
    # One-sided: smaller values are no reason.
    assert two_sample.larger_mean(rng.normal(9.0, size=400), rng.normal(6.0, size=300), 4, 200).p_value == 1.0


def test_distances_are_those_of_mahalanobis_to_the_nearest_mean(rng):
    from scipy.spatial.distance import cdist

    spread = np.array([3.0, 1.0, 0.2])
    groups = np.repeat([4, 7, 9, 10], [40, 40, 3, 3])  # the last two are too small to have a mean each
    means = np.repeat(rng.normal(size=(4, 3)) * 9.0, [40, 40, 3, 3], axis=0)
    vectors = (means + rng.normal(size=(86, 3)) * spread).astype(np.float32)
    merged = np.where(groups > 7, 9, groups)
    centres = np.stack([vectors[merged == group].mean(axis=0) for group in (4, 7, 9)])
    residuals = vectors - centres[np.searchsorted([4, 7, 9], merged)]
    covariance = residuals.T @ residuals / 86
    images = np.concatenate([rng.normal(size=(7, 3)) * 5.0, np.full((1, 3), np.nan)]).astype(np.float32)
    measured, unknown = monitored.distances(images, None, TrainingImages(vectors, groups)).T
    expected = cdist(images[:7], centres, "mahalanobis", VI=np.linalg.inv(covariance)).min(axis=1)
    np.testing.assert_allclose(measured[:7], expected, rtol=0.05)  # a thousandth of the variance is added
    assert np.isnan(measured[7]) and np.isnan(unknown).all()


def test_distances_of_thumbnails_are_those_to_the_five_nearest(rng):
    thumbnails = np.zeros((8, 64), np.float32)
    thumbnails[:, 0] = [0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0, np.nan]
    vectors = rng.normal(size=(8, 3)).astype(np.float32)
    training = TrainingImages(vectors, np.zeros(8, int), thumbnails)
    _, measured = monitored.distances(vectors, thumbnails, training).T
    np.testing.assert_allclose(measured[:6], [2.0, 1.4, 1.2, 1.4, 2.0, (0 + 10 + 46 + 47 + 48) / 5], rtol=1e-6)
    assert np.isnan(measured[7])
    few = training._replace(embeddings=vectors[:2], groups=np.zeros(2, int), thumbnails=thumbnails[:2])
    assert monitored.distances(vectors, thumbnails, few)[:2, 1].tolist() == [0.5, 0.5]
    for none in (None, thumbnails[7:]):  # no pixels of training images
        assert np.isnan(monitored.distances(vectors, thumbnails, training._replace(thumbnails=none))[:, 1]).all()


def test_few_training_images_are_enough_for_distances(rng):
    vectors = rng.normal(size=(2, 50)).astype(np.float32)
    for number in (1, 2):
        training = TrainingImages(vectors[:number], np.zeros(number, int))
        near, far = monitored.distances(np.stack([vectors[0], vectors[0] + 9.0]), None, training)[:, 0]
        assert near < far < np.inf


def test_embeddings_of_other_dimensions_have_no_distance_and_are_not_tested(rng):
    reference, window = images(rng, 50), images(rng, 50)
    training = TrainingImages(images(rng, 50).embeddings, np.zeros(50, int))
    shorter = window.embeddings[:, :-1]
    distances = monitored.distances(shorter, None, training)
    assert distances.shape == (50, 2) and np.isnan(distances).all()
    reference = dataclasses.replace(reference, distances=monitored.distances(reference.embeddings, None, training))
    window = dataclasses.replace(window, embeddings=shorter, distances=distances)
    compared = drift.compare(reference, window, CLASSES, RATE, MIN_IMAGES)
    assert "embeddings" not in {test.kind for test in compared.tests}
    assert "they have 7 dimensions instead of 8." in str(compared)


# === All tests of a window ===


def test_clean_windows_raise_few_alarms_and_drift_always_does(rng):
    # With a reference of its own, a window is independent of the others.
    clean = [any(test.drift for test in all_tests(images(rng, 300), images(rng, 150), seed)) for seed in range(40)]
    assert sum(clean) <= 2  # 0.4 are expected at most; three or more have a probability below 0.01
    for seed in range(5):
        drifted = all_tests(images(rng, 300), images(rng, 150, shift=1.0), seed)
        assert {"inputs", "embeddings", "outputs"} <= {test.kind for test in drifted if test.drift}


def test_a_few_images_of_an_unknown_class_are_drift(rng):
    training = TrainingImages(stored_embeddings(rng.normal(size=(500, 8))), np.arange(500) % 2)

    def with_distances(side):
        return dataclasses.replace(side, distances=monitored.distances(side.embeddings, None, training))

    def drifted(reference, window):
        tests = all_tests(with_distances(reference), with_distances(window))
        return [test for test in tests if test.kind == "embeddings" and test.drift]

    reference, window = images(rng, 800), images(rng, 300)
    assert drifted(reference, window) == []
    window.embeddings[:18] += 3.0 * np.eye(8, dtype=np.float32)[rng.integers(0, 8, 18)]
    (test,) = drifted(reference, window)
    assert test.name == "distance to training images" and test.window > test.reference > 0.0
    # A reference of an earlier version has no embeddings of training images.
    assert [test.name for test in all_tests(reference, with_distances(window)) if test.kind == "embeddings"] == [""]


def test_pixels_show_images_whose_embeddings_are_those_of_a_known_class(rng):
    training = TrainingImages(
        stored_embeddings(rng.normal(size=(500, 8))), np.arange(500) % 2, rng.normal(size=(500, 64)).astype(np.float32)
    )

    def drifted(thumbnails):
        sides = []
        for side, pixels in zip((reference, window), thumbnails, strict=True):
            far = monitored.distances(side.embeddings, pixels, training)
            sides.append(dataclasses.replace(side, distances=far))
        return [test.name for test in all_tests(*sides) if test.kind == "embeddings" and test.drift]

    reference, window = images(rng, 800), images(rng, 300)
    first, second = rng.normal(size=(800, 64)), rng.normal(size=(300, 64))
    assert drifted((first, second)) == []
    second[:18] += 3.0
    assert drifted((first, second)) == ["distance to training images"]
    # If requests are logged without images, only embeddings are compared.
    assert drifted((first, None)) == drifted((None, second)) == []


def test_only_what_moves_is_drift(rng):
    reference = images(rng, 800)
    window = images(rng, 300)
    window.statistics[:, image_statistics.NAMES.index("sharpness")] *= 0.5
    drifted = [test for test in all_tests(reference, window) if test.drift]
    assert [(test.kind, test.name) for test in drifted] == [("inputs", "sharpness")]
    assert drifted[0].window == pytest.approx(50.0, abs=2.0) and drifted[0].reference == pytest.approx(100.0, abs=2.0)
    shares = [test for test in all_tests(reference, images(rng, 300, shares=(0.1, 0.2, 0.7))) if test.drift]
    assert "classes" in {test.kind for test in shares} and "inputs" not in {test.kind for test in shares}


def test_p_values_are_multiplied_by_the_tests_of_a_kind_and_the_kinds():
    def one(kind, name, p_value):
        return drift.Comparison(kind, name, "test", two_sample.TwoSampleTest(0.0, p_value))

    comparisons = [one("outputs", "a", 0.001), one("outputs", "b", 0.4), one("confidence", "", 0.0049)]
    corrected = drift.correct(comparisons, 0.01)
    assert [test.adjusted_p_value for test in corrected] == pytest.approx([0.004, 0.0098, 1.0])
    assert [test.drift for test in corrected] == [True, True, False]


def test_what_is_not_known_is_not_tested(rng):
    reference = images(rng, 200)
    predictions = reference.predictions._replace(confidence=None)
    window = images(rng, 100, statistics=None, embeddings=None, predictions=images(rng, 100).predictions)
    compared = drift.compare(dataclasses.replace(reference, predictions=predictions), window, CLASSES, RATE, MIN_IMAGES)
    assert {test.kind for test in compared.tests} == {"outputs", "classes"}
    assert len(compared.notes) == 3 and "the log contains no images" in compared.notes[0]


def test_images_without_values_are_left_out(rng):
    reference, window = images(rng, 300), images(rng, 100)
    window.statistics[:30] = np.nan
    assert not any(test.drift for test in all_tests(reference, window) if test.kind == "inputs")
    window.statistics[:85] = np.nan
    assert "only 15 images" in drift.compare(reference, window, CLASSES, RATE, MIN_IMAGES).notes[0]


def test_constant_values_are_not_tests(rng):
    reference, window = images(rng, 200), images(rng, 100)
    for each in (reference, window):
        each.statistics[:, 4:] = 128.0
    assert sum(test.kind == "inputs" for test in all_tests(reference, window)) == 4


def test_rounding_errors_of_saturated_probabilities_are_no_drift(rng):
    reference, window = images(rng, 400), images(rng, 400)
    ones, nearly = np.ones((400, 3), np.float32), np.full((400, 3), 1.0 - 1e-6, np.float32)
    first = dataclasses.replace(reference, predictions=reference.predictions._replace(scores=ones))
    second = dataclasses.replace(window, predictions=window.predictions._replace(scores=nearly))
    assert not any(test.drift for test in all_tests(first, second) if test.kind == "outputs")


def test_small_probabilities_are_compared(rng):
    sides = []
    for factor in (1.0, 10.0):
        side = images(rng, 300)
        scores = (1e-8 * factor * rng.uniform(0.5, 1.0, (300, 3))).astype(np.float32)
        sides.append(dataclasses.replace(side, predictions=side.predictions._replace(scores=scores)))
    assert all(test.drift for test in all_tests(*sides) if test.kind == "outputs")


def test_large_embeddings_are_projected_in_the_same_way_every_time(rng):
    vectors = rng.normal(size=(20, MAX_DIMENSIONS + 500))
    projected = stored_embeddings(vectors)
    assert projected.shape == (20, MAX_DIMENSIONS)
    # The product of other numbers of rows may be rounded differently.
    np.testing.assert_allclose(stored_embeddings(vectors[:3]), projected[:3], atol=2e-3)
    distances = [np.linalg.norm(each[0] - each[1]) for each in (vectors, projected)]
    assert distances[1] == pytest.approx(distances[0], rel=0.15)


# === Quality ===


def labelled(rng, num, accuracy, label="cat", brightness=120.0):
    statistics = np.full((num, len(image_statistics.NAMES)), 100.0, np.float32)
    statistics[:, image_statistics.NAMES.index("brightness")] = brightness
    correct = (np.arange(num) < round(accuracy * num)).astype(np.float32)
    return images(rng, num, statistics=statistics, quality=correct, labels=[(label,)] * num)


def test_quality_by_slice(rng):
    slices, tests = quality.compare(labelled(rng, 200, 0.9), labelled(rng, 100, 0.7))
    assert next(each.slice for each in slices) == "all"
    assert {each.slice for each in slices} == {
        "all", "label=cat", "brightness=normal", "resolution=small", "orientation=square",
    }  # fmt: skip
    first = slices[0]
    assert (first.images, first.value, first.reference) == (100, pytest.approx(0.7), pytest.approx(0.9))
    # Wilson's interval by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert (first.low, first.high) == pytest.approx((0.6042, 0.7811), abs=1e-4)
    corrected = drift.correct(tests, RATE)
    assert all(test.drift for test in corrected) and {test.kind for test in corrected} == {"quality"}
    marked = quality.worse_slices(slices, frozenset({"all"}))
    assert [each.worse for each in marked] == [True, False, False, False, False]


def test_better_quality_is_no_alarm_and_small_slices_are_not_tested(rng):
    _, tests = quality.compare(labelled(rng, 200, 0.7), labelled(rng, 100, 0.95))
    assert not any(test.drift for test in drift.correct(tests, RATE))
    slices, tests = quality.compare(labelled(rng, 200, 0.9), labelled(rng, 10, 0.1))
    assert slices and not tests
    slices, tests = quality.compare(labelled(rng, 200, 0.9), labelled(rng, 50, 0.1, label="owl", brightness=20.0))
    by_name = {each.slice: each for each in slices}
    assert by_name["label=owl"].reference is None and "brightness=dark" in by_name
    assert {test.name for test in tests} == {"all", "resolution=small", "orientation=square"}


def test_without_feedback_there_is_no_quality(rng):
    assert quality.compare(labelled(rng, 50, 0.9), images(rng, 50)) == ([], [])


def test_the_bootstrap_interval_covers_the_mean(rng):
    covered = 0
    for seed in range(60):
        low, high = quality.interval(rng.beta(4.0, 2.0, 80), seed)
        covered += low <= 2 / 3 <= high
    assert covered >= 51  # 57 are expected; fewer have a probability below 0.02
