"""Distance between the distributions of two spans or splits, and the part of it that chance explains. Pure functions.

TFDV's own comparators are not used: its Jensen-Shannon divergence compares ten buckets between the smallest and the
largest value of each span, so that one odd image, or a feature with few different values, counts as drift.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

from trainer_module import features

# Number of quantiles in the histograms. Shares are known to a twentieth or better; a hundred quantiles would take TFDV
# longer than reading ten thousand examples.
NUM_QUANTILES = 20
# Two samples of the same images exceed the part of chance once in ten thousand comparisons.
_SIGNIFICANCE = 1e-4
_DEVIATIONS = 4.0


class Wording(NamedTuple):
    """Words that describe a difference.

    Attributes:
      verb: `has moved` or `differs`.
      current: Marks the values of the compared sample: `now`.
      reference: Marks those of the reference: `before`.
    """

    verb: str
    current: str
    reference: str


OVER_TIME = Wording("has moved", "now", "before")


class Difference(NamedTuple):
    """A feature whose distributions differ by more than is allowed.

    Attributes:
      feature: Its name.
      value: The string whose share differs most; None if the feature is a number.
      distance: In [0, 1]: Kolmogorov-Smirnov distance of numbers, largest difference of a share of strings.
      allowed: The threshold plus what chance explains.
      detail: Distance, allowed distance and the difference in words.
    """

    feature: str
    value: str | None
    distance: float
    allowed: float
    detail: str


def compare(
    current: statistics_pb2.DatasetFeatureStatisticsList,
    reference: statistics_pb2.DatasetFeatureStatisticsList,
    threshold: float,
    wording: Wording = OVER_TIME,
) -> list[Difference]:
    """Compares every feature that both have.

    Args:
      current: Statistics of a split.
      reference: Statistics of the same split of the previous span, or of another split.
      threshold: Largest allowed distance, beyond what chance explains.
      wording: Words for the details.

    Returns:
      Every feature with a larger distance.
    """
    (ours,), (theirs,) = current.datasets, reference.datasets
    spread = 1 / max(1, ours.num_examples) + 1 / max(1, theirs.num_examples)
    known = {feature.path.step[0]: feature for feature in theirs.features}
    differences = []
    for feature in sorted(ours.features, key=lambda feature: feature.path.step[0]):
        name = feature.path.step[0]
        if name not in known:
            continue
        compare_feature = _compare_numbers if feature.HasField("num_stats") else _compare_strings
        difference = compare_feature(feature, known[name], threshold, spread, wording)
        if difference:
            differences.append(difference)
    return differences


def kolmogorov_smirnov(current: np.ndarray, reference: np.ndarray) -> float:
    """Computes the largest difference of two distribution functions, in [0, 1].

    Args:
      current: Quantiles of equal shares, ascending: float [n + 1]. Equal neighbours are a value that many images have.
      reference: The same of the other distribution.

    Reference: N. Smirnov, Table for Estimating the Goodness of Fit of Empirical Distributions, Ann. Math. Statist.
    19(2), 1948.
    """
    points = np.unique(np.concatenate([current, reference]))
    return max(
        float(np.abs(_distribution(current, points, side) - _distribution(reference, points, side)).max())
        for side in ("left", "right")
    )


def _distribution(quantiles: np.ndarray, points: np.ndarray, side: str) -> np.ndarray:
    """Computes the share of values below (`left`) or not above (`right`) each point, linear between quantiles."""
    shares = np.linspace(0.0, 1.0, len(quantiles))
    values, first = np.unique(quantiles, return_index=True)
    last = np.append(first[1:], len(quantiles)) - 1
    # The function jumps at a value that is several quantiles.
    at = shares[first if side == "left" else last]
    inside = np.clip(np.searchsorted(values, points) - 1, 0, max(0, len(values) - 2))
    exact = np.isin(points, values)
    result = np.empty(len(points))
    result[exact] = at[np.searchsorted(values, points[exact])]
    for index in np.flatnonzero(~exact):
        point, left = points[index], inside[index]
        if point < values[0] or point > values[-1]:
            result[index] = float(point > values[-1])
            continue
        part = (point - values[left]) / (values[left + 1] - values[left])
        result[index] = shares[last[left]] + part * (shares[first[left + 1]] - shares[last[left]])
    return result


def _compare_numbers(
    current: statistics_pb2.FeatureNameStatistics,
    reference: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
    wording: Wording,
) -> Difference | None:
    quantiles = [_quantiles(feature) for feature in (current, reference)]
    if any(len(values) < 2 for values in quantiles):
        return None
    distance = kolmogorov_smirnov(*quantiles)
    # Smirnov's limit distribution at the significance above.
    allowed = threshold + math.sqrt(-math.log(_SIGNIFICANCE / 2) / 2 * spread)
    if distance <= allowed:
        return None
    medians = [float(np.median(values)) for values in quantiles]
    detail = (
        f"the distribution {wording.verb} by {distance:.2f} (Kolmogorov-Smirnov), allowed {allowed:.2f}; "
        f"median {medians[1]:.4g} {wording.reference}, {medians[0]:.4g} {wording.current}"
    )
    return Difference(current.path.step[0], None, distance, allowed, detail)


def _compare_strings(
    current: statistics_pb2.FeatureNameStatistics,
    reference: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
    wording: Wording,
) -> Difference | None:
    shares, reference_shares = _shares(current), _shares(reference)
    changes = {
        value: shares.get(value, 0.0) - reference_shares.get(value, 0.0) for value in {*shares, *reference_shares}
    }
    for value in sorted(changes, key=lambda value: (-abs(changes[value]), value)):
        share = (shares.get(value, 0.0) + reference_shares.get(value, 0.0)) / 2
        allowed = threshold + _DEVIATIONS * math.sqrt(share * (1 - share) * spread)
        distance = abs(changes[value])
        if distance > allowed:
            detail = (
                f"the share of `{value}` {wording.verb} by {distance:.2f}, allowed {allowed:.2f}; "
                f"{reference_shares.get(value, 0.0):.1%} {wording.reference}, "
                f"{shares.get(value, 0.0):.1%} {wording.current}"
            )
            return Difference(current.path.step[0], value, distance, allowed, detail)
    return None


def _quantiles(feature: statistics_pb2.FeatureNameStatistics) -> np.ndarray:
    for histogram in feature.num_stats.histograms:
        if histogram.type == statistics_pb2.Histogram.QUANTILES and histogram.buckets:
            lows = [bucket.low_value for bucket in histogram.buckets]
            return np.array([*lows, histogram.buckets[-1].high_value])
    return np.empty(0)


def _shares(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, float]:
    """Returns the share of examples with each value; of objects, where an example may have a value several times."""
    counts = {bucket.label: bucket.sample_count for bucket in feature.string_stats.rank_histogram.buckets}
    is_of_objects = feature.path.step[0] == features.BOX_CLASSES
    total = sum(counts.values()) if is_of_objects else feature.string_stats.common_stats.num_non_missing
    return {value: count / total for value, count in counts.items()} if total else {}
