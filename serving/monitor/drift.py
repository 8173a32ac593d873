"""Compares a window of requests with the monitoring reference: inputs, embeddings, outputs, classes and confidence.

The false-alarm rate is divided equally among the kinds of values that are known, and within a kind among its tests
(Bonferroni, as in "Failing Loudly"). Nothing is assumed about how the tests depend on each other.

Reference: Rabanser, Guennemann & Lipton 2019, Failing Loudly, https://arxiv.org/abs/1810.11953, sections 3.1 (BBSDs:
univariate tests on the outputs of the classifier) and 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from serving.monitor import two_sample
from serving.monitor.result import DriftTest, Kind
from serving.monitor.two_sample import TwoSampleTest
from trainer_module import image_statistics
from trainer_module.monitored import MonitoredImages

# Rounding errors of another machine move probabilities that are almost 1, of which there may be many. Small ones have
# more digits, and drift often moves them first.
_NEAR_ZERO, _NEAR_ONE = 1e-12, 1.0 - 1e-5
# Number of permutations that are as different as the samples, at the level of a test. More of them find smaller
# differences; those of vectors take several times as long.
_VECTORS_AT_LEVEL, _DISTANCES_AT_LEVEL = 3, 20
# Of the distances to the training images. Images of an unknown class are a small part of a window, and far away.
_POWER_OF_DISTANCES = 4


@dataclass(frozen=True)
class Comparison:
    """A test before the correction for the number of tests; see `DriftTest` for the attributes."""

    kind: Kind
    name: str
    method: str
    result: TwoSampleTest
    reference: float | None = None
    window: float | None = None


@dataclass
class Comparisons:
    """All tests of a window.

    Attributes:
      tests: The tests.
      notes: Values that could not be tested, and why.
    """

    tests: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(
    reference: MonitoredImages,
    window: MonitoredImages,
    classes: Sequence[str],
    false_alarm_rate: float,
    min_images: int,
    seed: int = 0,
) -> Comparisons:
    """Runs all tests for which both sides have values.

    Args:
      reference: The test split.
      window: The requests.
      classes: Class names; the index is the id.
      false_alarm_rate: Decides the number of permutations.
      min_images: Values of fewer images of the window are not tested.
      seed: Of the permutations.
    """
    comparisons = Comparisons()
    for kind, tests in (
        ("inputs", lambda: _inputs(reference, window, min_images)),
        ("embeddings", lambda: _embeddings(reference, window, false_alarm_rate, min_images, seed)),
        ("outputs", lambda: _outputs(reference, window, classes)),
        ("classes", lambda: _classes(reference, window, len(classes))),
        ("confidence", lambda: _confidence(reference, window)),
    ):
        try:
            comparisons.tests += tests()
        except _NotTested as reason:
            comparisons.notes.append(f"{kind} {'are' if kind.endswith('s') else 'is'} not tested: {reason}")
    return comparisons


class _NotTested(Exception):
    """Why a kind of values cannot be tested."""


def _inputs(reference: MonitoredImages, window: MonitoredImages, min_images: int) -> Iterator[Comparison]:
    if window.statistics is None or reference.statistics is None:
        raise _NotTested("the log contains no images.")
    first, second = _complete(reference.statistics), _complete(window.statistics)
    if len(second) < min_images:
        raise _NotTested(f"the log contains only {len(second):,} images that can be read.")
    return _columns("inputs", image_statistics.NAMES, first, second)


def _embeddings(
    reference: MonitoredImages, window: MonitoredImages, false_alarm_rate: float, min_images: int, seed: int
) -> list[Comparison]:
    if window.embeddings is None or reference.embeddings is None:
        raise _NotTested("the log contains neither images nor embeddings.")
    first, second = _complete(reference.embeddings), _complete(window.embeddings)
    if len(second) < min_images:
        raise _NotTested(f"the log contains only {len(second):,} embeddings.")
    if first.shape[1] != second.shape[1]:
        raise _NotTested(f"they have {second.shape[1]} dimensions instead of {first.shape[1]}.")
    distances = None
    if reference.distances is not None and window.distances is not None:
        distances = reference.distances, window.distances
    level = false_alarm_rate / (len(get_args(Kind)) * (2 if distances else 1))
    result = two_sample.maximum_mean_discrepancy(first, second, math.ceil(_VECTORS_AT_LEVEL / level), seed)
    comparisons = [Comparison("embeddings", "", "maximum mean discrepancy", result)]
    if distances:
        comparisons.append(_distances(*distances, level, seed))
    return comparisons


def _distances(reference: np.ndarray, window: np.ndarray, level: float, seed: int) -> Comparison:
    # A product, because its mean does not depend on their units; without pixels, embeddings alone.
    known = ~(np.isnan(reference).all(axis=0) | np.isnan(window).all(axis=0))
    products = (values[:, known].prod(axis=1) for values in (reference, window))
    first, second = (values[~np.isnan(values)] for values in products)
    permutations = math.ceil(_DISTANCES_AT_LEVEL / level)
    result = two_sample.larger_mean(first, second, _POWER_OF_DISTANCES, permutations, seed)
    name, method = "distance to training images", "permutations of the mean of the fourth power"
    return Comparison("embeddings", name, method, result, float(first.mean()), float(second.mean()))


def _outputs(reference: MonitoredImages, window: MonitoredImages, classes: Sequence[str]) -> Iterator[Comparison]:
    first, second = reference.predictions.scores, window.predictions.scores
    if first.shape[1] != second.shape[1]:
        raise _NotTested(f"responses have {second.shape[1]} classes, the reference {first.shape[1]}.")
    return _columns("outputs", classes, first, second, _clip)


def _classes(reference: MonitoredImages, window: MonitoredImages, num_classes: int) -> list[Comparison]:
    result = two_sample.chi_squared(reference.predictions.class_ids, window.predictions.class_ids, num_classes)
    return [Comparison("classes", "", "chi-squared", result)]


def _confidence(reference: MonitoredImages, window: MonitoredImages) -> Iterator[Comparison]:
    first, second = reference.predictions.confidence, window.predictions.confidence
    if first is None or second is None:
        raise _NotTested("responses of this task contain none.")
    return _columns("confidence", ("",), first[:, np.newaxis], second[:, np.newaxis], _clip)


def _columns(
    kind: Kind,
    names: Sequence[str],
    reference: np.ndarray,
    window: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> Iterator[Comparison]:
    """Compares every column that is not constant, such as the colour of grey images."""
    for name, first, second in zip(names, reference.T, window.T, strict=True):
        if first.min() == first.max() == second.min() == second.max():
            continue
        result = two_sample.kolmogorov_smirnov(prepare(first), prepare(second))
        yield Comparison(kind, name, "Kolmogorov-Smirnov", result, float(first.mean()), float(second.mean()))


def _clip(values: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(values, _NEAR_ZERO, _NEAR_ONE)
    return clipped


def _complete(rows: np.ndarray) -> np.ndarray:
    complete: np.ndarray = rows[~np.isnan(rows).any(axis=1)]
    return complete


def correct(comparisons: Sequence[Comparison], false_alarm_rate: float) -> tuple[DriftTest, ...]:
    """Corrects p-values for the number of tests of a kind and the number of kinds, the smallest first."""
    kinds = [each.kind for each in comparisons]
    corrected = []
    for each in comparisons:
        adjusted = min(1.0, each.result.p_value * kinds.count(each.kind) * len(set(kinds)))
        corrected.append(
            DriftTest(
                kind=each.kind,
                name=each.name,
                method=each.method,
                statistic=each.result.statistic,
                p_value=each.result.p_value,
                adjusted_p_value=adjusted,
                drift=adjusted <= false_alarm_rate,
                reference=each.reference,
                window=each.window,
            )
        )
    return tuple(sorted(corrected, key=lambda test: test.p_value))
