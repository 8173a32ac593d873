"""Predictors that ignore the image, and the tests whether a model is better than they are by more than sampling error.

Importing this module imports neither TensorFlow nor TFX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Level of the tests: the largest probability with which a model that has learned nothing passes.
LEVEL = 0.01

# Permutations: as many as need this many random numbers, within these limits. The lower one makes a p-value of a tenth
# of the level possible.
_RANDOM_NUMBERS = 10_000_000
_FEWEST, _MOST = 999, 9_999
_TOLERANCE = 1e-12

# Integers [num_classes], or of another shape, by name: what is known of a model over all examples.
Evidence = Mapping[str, np.ndarray]
# The evidence that every task has: int64 [num_classes], the number of images that contain the class, of images in which
# it is predicted, and of images in which it is predicted correctly.
OCCURRING, PREDICTED, CORRECT = "occurring", "predicted", "correct"


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """The result of the test whether a model is better than a predictor that ignores the image.

    Attributes:
      score: The compared score, inside a sentence: "balanced accuracy".
      value: Its value.
      bound: The value that must be exceeded; NaN if there is none.
      passed: Whether it is exceeded; None if too few examples were evaluated to find out.
      detail: The result in words that follow `score`, with the test, its p-value and its level.
    """

    score: str
    value: float
    bound: float
    passed: bool | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class ConstantBaseline:
    """A predictor that ignores the image, or a family of them; a model must be better.

    Attributes:
      name: The default rule is `beats_` and this name.
      description: The rule in one sentence.
      compare: (evidence, class names) → the result.
    """

    name: str
    description: str
    compare: Callable[[Evidence, Sequence[str]], BaselineComparison]

    @property
    def rule(self) -> str:
        """Name of the default rule."""
        return f"beats_{self.name}"


def decide(value: float, reference: float, p_value: float, smallest_p_value: float) -> bool | None:
    """Decides whether a model is better than a baseline.

    Args:
      value: Score of the model.
      reference: Score of the baseline.
      p_value: Of the null hypothesis that the model is not better.
      smallest_p_value: The p-value of a model without errors on the same examples.

    Returns:
      None if even a model without errors could not be distinguished from the baseline, and this one has at least the
      higher score.
    """
    if p_value <= LEVEL:
        return True
    return None if smallest_p_value > LEVEL and value > reference + _TOLERANCE else False


# === Permutation test ===


@dataclass(frozen=True)
class PermutationTest:
    """Whether predictions agree with the labels by more than chance.

    The null hypothesis is that the predictions do not depend on the labels: all permutations of the labels are equally
    likely. The number of labels and of predictions of each class stays the same, so that the test is as valid for
    classes of very different size.

    Attributes:
      value: The weighted number of correct predictions.
      bound: The value that only the share `LEVEL` of the permutations exceeds.
      p_value: Share of the permutations, the actual order included, with at least this value.
      smallest_p_value: The p-value of predictions without errors.
    """

    value: float
    bound: float
    p_value: float
    smallest_p_value: float


def permutation_test(
    support: np.ndarray, predicted: np.ndarray, correct: np.ndarray, weights: np.ndarray
) -> PermutationTest:
    """Tests the weighted number of correct predictions.

    Args:
      support: int64 [C], labels per class.
      predicted: int64 [C], predictions per class.
      correct: int64 [C], correct predictions per class.
      weights: float64 [C], of a correct prediction of each class.

    Reference: Ojala & Garriga 2010, https://jmlr.org/papers/v11/ojala10a.html, section 3.1 (test 1); Phipson & Smyth
    2010, https://doi.org/10.2202/1544-6115.1585 (the actual order counts as one of the permutations).
    """
    class_ids = np.arange(len(support), dtype=np.int32)
    labels, predictions = np.repeat(class_ids, support), np.repeat(class_ids, predicted)
    random = np.random.default_rng(0)  # the same evaluation always has the same result
    count = min(_MOST, max(_FEWEST, _RANDOM_NUMBERS // max(1, len(labels))))
    values = np.empty(count)
    for index in range(count):
        random.shuffle(labels)
        values[index] = np.bincount(labels[labels == predictions], minlength=len(weights)) @ weights
    value = float(correct @ weights)
    may_exceed = math.floor(LEVEL * (count + 1)) - 1
    bound = float(np.sort(values)[count - 1 - may_exceed])
    # Predictions without errors are one arrangement of the labels among all different ones.
    arrangements = math.lgamma(support.sum() + 1) - sum(math.lgamma(number + 1) for number in support)
    smallest = math.exp(-arrangements)
    p_value = (1 + int(np.count_nonzero(values >= value - _TOLERANCE))) / (count + 1)
    if correct.sum() == support.sum():
        p_value = min(p_value, max(smallest, 1 / (count + 1)))
    return PermutationTest(value, bound, p_value, smallest)


# === Sign test ===


@dataclass(frozen=True)
class SignTest:
    """Whether a model is better than a baseline on more images than it is worse; equal images do not count.

    Attributes:
      value: Share of the images, without equal ones, on which the model is better; NaN if all are equal.
      bound: The share that must be exceeded; NaN if all are equal.
      p_value: Probability of at least this many if better and worse were equally likely.
      smallest_p_value: The p-value of a model without errors.
    """

    value: float
    bound: float
    p_value: float
    smallest_p_value: float


def sign_test(better: int, worse: int, beatable: int) -> SignTest:
    """Computes the exact one-sided sign test.

    Args:
      better: Images on which the model is better.
      worse: Images on which it is worse.
      beatable: Images on which a model without errors is better.

    Reference: Dixon & Mood 1946, https://doi.org/10.1080/01621459.1946.10501898.
    """
    from scipy.special import bdtr

    count = better + worse
    if not count:
        return SignTest(math.nan, math.nan, 1.0, 0.5**beatable)
    # bdtr(k, n, 1/2) is the probability of at most k of n, and of at least n - k.
    p_values = bdtr(count - np.arange(count + 1), count, 0.5)
    too_few = int(np.count_nonzero(p_values > LEVEL)) - 1
    return SignTest(better / count, too_few / count, float(p_values[better]), 0.5**beatable)


def compare_by_images(score: str, better: int, worse: int, beatable: int, unbeatable: str) -> BaselineComparison:
    """Tests on how many images a model is better than a baseline, and worse, by the sign test.

    Args:
      score: The compared score, inside a sentence.
      better: Images on which the model is better.
      worse: Images on which it is worse.
      beatable: Images on which a model without errors is better.
      unbeatable: Why there is no such image, if there is none.
    """
    if not beatable:
        reason = f"is not compared: {unbeatable}"
        return BaselineComparison(score=score, value=math.nan, bound=math.nan, passed=None, detail=reason)
    test = sign_test(better, worse, beatable)
    passed = decide(test.value, 0.5, test.p_value, test.smallest_p_value)
    counts = f"better on {better:,} of {beatable:,} images, worse on {worse:,}"
    p_value = f"p = {test.p_value:.2g}, level {LEVEL:g}"
    if better + worse == 0:
        detail = f"is undefined: the scores of all {beatable:,} images are equal"
    elif passed is None:
        detail = (
            f"is {test.value:.4f} ({counts}); not tested, {beatable:,} images are too few "
            f"(p = {test.smallest_p_value:.2g} even without errors, level {LEVEL:g})"
        )
    else:
        detail = f"is {test.value:.4f}; it must be above {test.bound:.4f} ({counts}; sign test, {p_value})"
    return BaselineComparison(score=score, value=test.value, bound=test.bound, passed=passed, detail=detail)


def decisive(comparisons: Iterable[BaselineComparison], default: BaselineComparison) -> BaselineComparison:
    """Returns the result for a family of baselines: failed before not tested before passed, then the narrowest."""
    order = {False: 0, None: 1, True: 2}
    return min(
        comparisons,
        key=lambda result: (order[result.passed], np.nan_to_num(result.value - result.bound, nan=-1.0)),
        default=default,
    )
