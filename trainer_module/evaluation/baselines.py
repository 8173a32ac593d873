"""Predictors that ignore the image, and the tests whether a model is better than they are by more than sampling error.

Importing this module imports neither TensorFlow nor TFX.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Level of the tests: the largest probability with which a model that has learned nothing passes.
LEVEL = 0.01

# Permutations: as many as need this many random numbers, within these limits. The lower one makes a p-value of a tenth
# of the level possible.
_RANDOM_NUMBERS = 10_000_000
_FEWEST, _MOST = 999, 9_999
_TOLERANCE = 1e-12
_MOST_ENUMERATED = 7  # images whose permutations are all computed: 5,040

# Integers [num_classes], or of another shape, by name: what is known of a model over all examples.
Evidence = Mapping[str, np.ndarray]
# The evidence that every task has: int64 [num_classes], the number of images that contain the class, of images in which
# it is predicted, and of images in which it is predicted correctly.
OCCURRING, PREDICTED, CORRECT = "occurring", "predicted", "correct"
COMMON_EVIDENCE = (OCCURRING, PREDICTED, CORRECT)


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


def not_compared(score: str, reason: str, value: float = math.nan) -> BaselineComparison:
    """Describes why a model is not compared with a baseline.

    Args:
      score: As in `BaselineComparison`.
      reason: A clause.
      value: The score of the model, if it is known.
    """
    detail = f"is not compared: {reason}"
    return BaselineComparison(score=score, value=value, bound=math.nan, passed=None, detail=detail)


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


# === Samples of images ===

# Images of which scores are kept for the tests, so that memory and time do not grow with the number of images.
SAMPLE_SIZE = 100
# Scores of images are counted in thousandths: sums are exact, and do not depend on the order of the images.
SCORE_UNITS = 1000


class _Hashed(NamedTuple):
    rank: int
    digest: bytes
    image: tuple[np.ndarray, ...]


class ImageSample:
    """At most `SAMPLE_SIZE` images: those of the first rank, and among them those with the smallest hashes.

    The sample does not depend on the order in which images are added and samples are merged.

    Reference: Cohen & Kaplan 2007, https://doi.org/10.1145/1281100.1281133 (bottom-k sketches).
    """

    def __init__(self) -> None:
        """Starts without images."""
        self._images: list[_Hashed] = []

    def add(self, image: tuple[np.ndarray, ...], rank: int = 0) -> None:
        """Adds the arrays that describe one image; images of lower rank are kept first."""
        content = b"".join(np.asarray(array).tobytes() for array in image)
        self._keep([_Hashed(rank, hashlib.blake2b(content, digest_size=16).digest(), image)])

    def merge(self, other: ImageSample) -> None:
        """Adds the images of another sample."""
        self._keep(other._images)

    def images(self) -> list[tuple[np.ndarray, ...]]:
        """The arrays of the images, in an order that depends on their contents only."""
        return [hashed.image for hashed in self._images]

    def _keep(self, images: list[_Hashed]) -> None:
        self._images = sorted([*self._images, *images], key=lambda hashed: hashed[:2])[:SAMPLE_SIZE]


def to_units(scores: np.ndarray | Sequence[float]) -> np.ndarray:
    """Rounds scores to int64, in units of 1 / `SCORE_UNITS`."""
    return np.asarray(np.rint(np.asarray(scores) * SCORE_UNITS), np.int64)


# === Tests on samples of images ===


@dataclass(frozen=True)
class ScoreTest:
    """Whether the mean score of a model over images is above that of a baseline.

    Attributes:
      method: Name of the test.
      images: Number of images.
      value: The mean score of the model.
      reference: That of the baseline.
      bound: The mean score that must be exceeded.
      p_value: Probability of at least this mean score if the null hypothesis holds.
      smallest_p_value: The p-value of a model without errors.
    """

    method: str
    images: int
    value: float
    reference: float
    bound: float
    p_value: float
    smallest_p_value: float


def sign_flip_test(scores: np.ndarray, baseline: np.ndarray) -> ScoreTest:
    """Tests whether the mean score of a model is above that of a baseline on the same images.

    The null hypothesis is that both are equally good: exchanging their scores for an image, which flips the sign of the
    difference, is equally likely. The distribution of the sum over all flips is computed exactly. Unlike for the sign
    test, it counts by how much an image is better.

    Args:
      scores: int64 [n], of the model, in units of 1 / `SCORE_UNITS`; n is at least 1.
      baseline: int64 [n].

    Reference: Fisher 1935, The Design of Experiments, section 21; Pagano & Tritchler 1983,
    https://doi.org/10.1080/01621459.1983.10477990 (the distribution by convolution).
    """
    differences = scores - baseline
    sizes = np.abs(differences)
    probabilities = np.ones(1)  # of the sums -total, -total + 1, …, total
    for size in sizes.tolist():
        widened = np.zeros(len(probabilities) + 2 * size)
        widened[: len(probabilities)] += probabilities / 2.0
        widened[2 * size :] += probabilities / 2.0
        probabilities = widened
    tail = np.cumsum(probabilities[::-1])[::-1]  # probability of at least each sum
    total, count = int(sizes.sum()), len(scores) * SCORE_UNITS
    too_small = int(np.count_nonzero(tail > LEVEL)) - 1 - total
    reference = float(baseline.sum() / count)
    beatable = int(np.count_nonzero(baseline < SCORE_UNITS))
    return ScoreTest(
        method="sign-flip test",
        images=len(scores),
        value=float(scores.sum() / count),
        reference=reference,
        bound=reference + too_small / count,
        p_value=min(1.0, float(tail[differences.sum() + total])),
        smallest_p_value=0.5**beatable,
    )


def exchange_test(scores: np.ndarray, perfect: np.ndarray) -> ScoreTest:
    """Tests whether predictions fit their own images better than those of other images.

    The null hypothesis is that predictions do not depend on the image: all assignments of predictions to images are
    equally likely. This holds for all predictors that ignore the image, whatever they predict, and however the ground
    truth is distributed. The permutations are those of `permutation_test`; of few images, all.

    Args:
      scores: int64 [n, n], of the predictions for image j, compared with the ground truth of image i, in units of
        1 / `SCORE_UNITS`; n is at least 1.
      perfect: The same of predictions without errors.

    Reference: Ojala & Garriga 2010, https://jmlr.org/papers/v11/ojala10a.html, section 3.1 (test 1).
    """
    count, orders = len(scores), _orders(len(scores))
    value, values, perfect_values = int(np.trace(scores)), _sums(scores, orders), _sums(perfect, orders)
    ranked = np.sort(values)[::-1]
    return ScoreTest(
        method="permutation test",
        images=count,
        value=value / (count * SCORE_UNITS),
        reference=float(scores.mean() / SCORE_UNITS),
        bound=float(ranked[math.floor(LEVEL * len(orders))] / (count * SCORE_UNITS)),
        p_value=float(np.mean(values >= value)),
        smallest_p_value=float(np.mean(perfect_values >= np.trace(perfect))),
    )


@functools.lru_cache(maxsize=4)
def _orders(count: int) -> np.ndarray:
    """Returns permutations of so many images, int64 [m, count]: all, or the actual order and `_MOST` random ones."""
    if count <= _MOST_ENUMERATED:
        return np.array(list(itertools.permutations(range(count))), np.int64)
    random = np.random.default_rng(0)  # the same evaluation always has the same result
    orders = np.tile(np.arange(count), (1 + _MOST, 1))
    orders[1:] = random.permuted(orders[1:], axis=1)
    return orders


def _sums(scores: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Sums the scores of every permutation, int64 [m]."""
    return np.asarray(scores[np.arange(len(scores)), orders].sum(axis=1))


def compare_scores(score: str, test: ScoreTest, baseline: str) -> BaselineComparison:
    """Describes the result of a test on a sample of images.

    Args:
      score: The compared score of an image, inside a sentence.
      test: The result.
      baseline: What the model is compared with, inside a sentence.
    """
    passed = decide(test.value, test.reference, test.p_value, test.smallest_p_value)
    compared = f"the {test.reference:.4f} of {baseline}"
    if passed is None:
        detail = (
            f"is {test.value:.4f}, above {compared}; not tested, {test.images:,} images are too few or too similar "
            f"(p = {test.smallest_p_value:.2g} even without errors, level {LEVEL:g})"
        )
    else:
        detail = (
            f"is {test.value:.4f}; it must be above {test.bound:.4f}, given {compared} ({test.images:,} images, "
            f"{test.method}, p = {test.p_value:.2g}, level {LEVEL:g})"
        )
    return BaselineComparison(score=score, value=test.value, bound=test.bound, passed=passed, detail=detail)
