"""How far the distributions of two spans lie apart, and how far chance alone would put them. Pure functions.

TFDV's own comparators are not used: its Jensen-Shannon divergence compares ten buckets between each span's smallest and
largest value, so that a single odd picture, or sizes of which there are only a few, count as drift.
"""

from __future__ import annotations

import math

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

# Of the histograms that distributions are read from. Shares are known to a twentieth or better; a hundred quantiles
# would take TFDV longer than reading ten thousand examples.
NUM_QUANTILES = 20
# Two samples of the same pictures exceed what chance is given once in ten thousand comparisons.
_SIGNIFICANCE = 1e-4
_DEVIATIONS = 4.0


def compare(
    now: statistics_pb2.DatasetFeatureStatisticsList,
    before: statistics_pb2.DatasetFeatureStatisticsList,
    threshold: float,
) -> list[str]:
    """Compares every feature that both spans have.

    Args:
      now: Statistics of the train split.
      before: Those of the span before.
      threshold: Distance that counts as drift, beyond what chance explains.

    Returns:
      One line for every feature that has drifted: its name, by how much, and what was allowed.
    """
    (current,), (previous,) = now.datasets, before.datasets
    spread = 1 / max(1, current.num_examples) + 1 / max(1, previous.num_examples)
    known = {feature.path.step[0]: feature for feature in previous.features}
    lines = []
    for feature in sorted(current.features, key=lambda feature: feature.path.step[0]):
        name = feature.path.step[0]
        if name not in known:
            continue
        line = (
            _numbers(feature, known[name], threshold, spread)
            if feature.HasField("num_stats")
            else _names(feature, known[name], threshold, spread)
        )
        if line:
            lines.append(f"{name}: {line}")
    return lines


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
    now: statistics_pb2.FeatureNameStatistics,
    before: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
) -> str:
    quantiles = [_quantiles(feature) for feature in (now, before)]
    if any(len(values) < 2 for values in quantiles):
        return ""
    distance = kolmogorov_smirnov(*quantiles)
    # Smirnov's limit distribution, at the significance above.
    allowed = threshold + math.sqrt(-math.log(_SIGNIFICANCE / 2) / 2 * spread)
    if distance <= allowed:
        return ""
    medians = [float(np.median(values)) for values in quantiles]
    return (
        f"the distribution has moved by {distance:.2f} (Kolmogorov-Smirnov), allowed {allowed:.2f}; "
        f"median {medians[1]:.4g} before, {medians[0]:.4g} now"
    )


def _names(
    now: statistics_pb2.FeatureNameStatistics,
    before: statistics_pb2.FeatureNameStatistics,
    threshold: float,
    spread: float,
) -> str:
    current, previous = _shares(now), _shares(before)
    changes = {name: current.get(name, 0.0) - previous.get(name, 0.0) for name in {*current, *previous}}
    for name in sorted(changes, key=lambda name: (-abs(changes[name]), name)):
        share = (current.get(name, 0.0) + previous.get(name, 0.0)) / 2
        allowed = threshold + _DEVIATIONS * math.sqrt(share * (1 - share) * spread)
        if abs(changes[name]) > allowed:
            return (
                f"the share of `{name}` has moved by {abs(changes[name]):.2f}, allowed {allowed:.2f}; "
                f"{previous.get(name, 0.0):.1%} before, {current.get(name, 0.0):.1%} now"
            )
    return ""


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
