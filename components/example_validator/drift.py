"""How far the distributions of two spans or splits lie apart, and how far chance would put them. Pure functions.

TFDV's own comparators are not used: its Jensen-Shannon divergence compares ten buckets between each span's smallest and
largest value, so that a single odd picture, or sizes of which there are only a few, count as drift.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

# Of the histograms that distributions are read from. Shares are known to a twentieth or better; a hundred quantiles
# would take TFDV longer than reading ten thousand examples.
NUM_QUANTILES = 20
# Two samples of the same pictures exceed what chance is given once in ten thousand comparisons.
_SIGNIFICANCE = 1e-4
_DEVIATIONS = 4.0


class Words(NamedTuple):
    """How two samples are told apart: one `differs`, or `has moved`, by so much, and is called this, the other that."""

    verb: str
    one: str
    other: str


OVER_TIME = Words("has moved", "now", "before")


class Difference(NamedTuple):
    """A feature whose distributions lie further apart than is allowed.

    Attributes:
      feature: Its name.
      value: The name whose share has changed most; None where the feature is a number.
      distance: In [0, 1]: Kolmogorov-Smirnov of numbers, the largest change of a share of names.
      allowed: The threshold, and what chance explains beyond it.
      detail: By how much, what was allowed, and what has changed, in words.
    """

    feature: str
    value: str | None
    distance: float
    allowed: float
    detail: str


def compare(
    these: statistics_pb2.DatasetFeatureStatisticsList,
    others: statistics_pb2.DatasetFeatureStatisticsList,
    threshold: float,
    words: Words = OVER_TIME,
) -> list[Difference]:
    """Compares every feature that both have.

    Args:
      these: Statistics of a split.
      others: Those of the same split of the span before, or of another split.
      threshold: Distance that counts, beyond what chance explains.
      words: How to tell them apart.

    Returns:
      Every feature whose distance is larger.
    """
    (current,), (reference,) = these.datasets, others.datasets
    spread = 1 / max(1, current.num_examples) + 1 / max(1, reference.num_examples)
    known = {feature.path.step[0]: feature for feature in reference.features}
    found = []
    for feature in sorted(current.features, key=lambda feature: feature.path.step[0]):
        name = feature.path.step[0]
        if name not in known:
            continue
        of_kind = _numbers if feature.HasField("num_stats") else _names
        difference = of_kind(feature, known[name], threshold, spread, words)
        if difference:
            found.append(difference)
    return found


def kolmogorov_smirnov(now: np.ndarray, before: np.ndarray) -> float:
    """Largest difference of two distribution functions, in [0, 1].

    Args:
      now: Quantiles of equal shares, ascending: float [n + 1]. Equal neighbours are a value that many pictures have.
      before: The same of the other distribution.

    Reference: N. Smirnov, Table for Estimating the Goodness of Fit of Empirical Distributions, Ann. Math. Statist.
    19(2), 1948.
    """
    points = np.unique(np.concatenate([now, before]))
    sides = [[_distribution(quantiles, points, side) for side in ("left", "right")] for quantiles in (now, before)]
    return float(max(np.abs(sides[0][side] - sides[1][side]).max() for side in (0, 1)))


def _distribution(quantiles: np.ndarray, points: np.ndarray, side: str) -> np.ndarray:
    """Share of values below (`left`) or not above (`right`) each point, linear between quantiles."""
    shares = np.linspace(0.0, 1.0, len(quantiles))
    values, first = np.unique(quantiles, return_index=True)
    last = np.append(first[1:], len(quantiles)) - 1
    # Where a value holds several quantiles the function jumps.
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


def _numbers(
    one: statistics_pb2.FeatureNameStatistics,
    other: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
    words: Words,
) -> Difference | None:
    quantiles = [_quantiles(feature) for feature in (one, other)]
    if any(len(values) < 2 for values in quantiles):
        return None
    distance = kolmogorov_smirnov(*quantiles)
    # Smirnov's limit distribution, at the significance above.
    allowed = threshold + math.sqrt(-math.log(_SIGNIFICANCE / 2) / 2 * spread)
    if distance <= allowed:
        return None
    medians = [float(np.median(values)) for values in quantiles]
    detail = (
        f"the distribution {words.verb} by {distance:.2f} (Kolmogorov-Smirnov), allowed {allowed:.2f}; "
        f"median {medians[1]:.4g} {words.other}, {medians[0]:.4g} {words.one}"
    )
    return Difference(one.path.step[0], None, distance, allowed, detail)


def _names(
    one: statistics_pb2.FeatureNameStatistics,
    other: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
    words: Words,
) -> Difference | None:
    shares, reference = _shares(one), _shares(other)
    changes = {name: shares.get(name, 0.0) - reference.get(name, 0.0) for name in {*shares, *reference}}
    for name in sorted(changes, key=lambda name: (-abs(changes[name]), name)):
        share = (shares.get(name, 0.0) + reference.get(name, 0.0)) / 2
        allowed = threshold + _DEVIATIONS * math.sqrt(share * (1 - share) * spread)
        distance = abs(changes[name])
        if distance > allowed:
            detail = (
                f"the share of `{name}` {words.verb} by {distance:.2f}, allowed {allowed:.2f}; "
                f"{reference.get(name, 0.0):.1%} {words.other}, {shares.get(name, 0.0):.1%} {words.one}"
            )
            return Difference(one.path.step[0], name, distance, allowed, detail)
    return None


def _quantiles(feature: statistics_pb2.FeatureNameStatistics) -> np.ndarray:
    for histogram in feature.num_stats.histograms:
        if histogram.type == statistics_pb2.Histogram.QUANTILES and histogram.buckets:
            lows = [bucket.low_value for bucket in histogram.buckets]
            return np.array([*lows, histogram.buckets[-1].high_value])
    return np.empty(0)


def _shares(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, float]:
    counts = {bucket.label: bucket.sample_count for bucket in feature.string_stats.rank_histogram.buckets}
    total = feature.string_stats.common_stats.num_non_missing
    return {name: count / total for name, count in counts.items()} if total else {}
