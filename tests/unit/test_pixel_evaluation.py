"""Counts and metrics of segmentation: equal to scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from trainer_module.evaluation import pixels
from trainer_module.evaluation.spec import Parameters


def test_metrics_equal_those_of_scikit_learn_on_all_pixels_that_count(rng):
    ignore_id, accumulator = 9, pixels.PixelAccumulator(Parameters(4, 3, 9))
    ground_truth = rng.integers(0, 3, (5, 6, 7))
    ground_truth[rng.random(ground_truth.shape) < 0.2] = ignore_id
    predicted = rng.integers(0, 3, ground_truth.shape)  # class 3 neither occurs nor is predicted
    for masks in zip(ground_truth, predicted, strict=True):
        accumulator.add(pixels.count_pixels(*masks, num_classes=4, ignore_id=ignore_id))
    summary = accumulator.summarize()
    values = {metric.name: metric.compute(summary) for metric in pixels.metrics(top_k=3)}

    counted = ground_truth != ignore_id
    truth, guesses, ids = ground_truth[counted], predicted[counted], [0, 1, 2, 3]
    np.testing.assert_array_equal(summary.counts, sklearn.metrics.confusion_matrix(truth, guesses, labels=ids))
    assert values["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guesses))
    iou = sklearn.metrics.jaccard_score(truth, guesses, average=None, labels=ids[:3])
    precision, recall, dice, _ = sklearn.metrics.precision_recall_fscore_support(truth, guesses, labels=ids[:3])
    for name, expected in (("iou", iou), ("dice", dice), ("precision", precision), ("recall", recall)):
        np.testing.assert_allclose(values[name][:3], expected)
        assert np.isnan(values[name][3])
    assert values["mean_iou"] == pytest.approx(iou.mean()) and values["mean_dice"] == pytest.approx(dice.mean())


@pytest.mark.parametrize(
    ("ground_truth", "predicted", "message"),
    [
        ([[0, 1]], [[0], [1]], r"predicted mask has the shape \(2, 1\), its ground truth \(1, 2\)"),
        ([[0, 2]], [[0, 1]], "an id that none of the 2 classes has"),
        ([[0, 1]], [[0, 2]], "an id that none of the 2 classes has"),
    ],
)
def test_masks_that_do_not_fit_are_rejected(ground_truth, predicted, message):
    masks = (np.array(mask, np.uint8) for mask in (ground_truth, predicted))
    with pytest.raises(ValueError, match=message):
        pixels.count_pixels(*masks, num_classes=2, ignore_id=None)
