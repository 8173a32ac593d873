"""Per-class figures against scikit-learn's."""

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from trainer_module.hooks import metrics


@pytest.mark.parametrize("num_classes", [2, 5, 12])
def test_agrees_with_scikit_learn(rng, num_classes):
    truth = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 400)])
    guess = np.where(rng.uniform(size=truth.size) < 0.7, truth, rng.integers(0, num_classes, truth.size))
    overall, per_class = metrics.report(Counter(zip(truth.tolist(), guess.tolist(), strict=True)), num_classes)
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, zero_division=0.0)
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose([figures[name] for figures in per_class], expected, atol=1e-12)
        if name != "support":
            assert overall[f"macro_{name}"] == pytest.approx(expected.mean(), abs=1e-12)
    assert overall["accuracy"] == pytest.approx(accuracy_score(truth, guess), abs=1e-12)


def test_a_class_that_does_not_occur_is_left_out_of_the_means():
    overall, per_class = metrics.report({(0, 0): 3.0, (1, 0): 1.0}, 3)
    assert np.isnan([per_class[2][name] for name in ("precision", "recall", "f1")]).all()
    assert per_class[2]["support"] == 0
    assert overall["macro_recall"] == pytest.approx((1.0 + 0.0) / 2)


def test_a_class_that_is_never_predicted_has_precision_zero():
    _, per_class = metrics.report({(0, 0): 3.0, (1, 0): 1.0}, 2)
    assert per_class[1] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0}


def test_no_examples_give_no_figures():
    overall, _ = metrics.report({}, 2)
    assert all(np.isnan(value) for value in overall.values())
