"""Compares the quality of predictions, by feedback, with that on the test split: overall and in slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.monitor.drift import Comparison
from serving.monitor.result import SliceQuality
from serving.monitor.two_sample import TwoSampleTest
from trainer_module import image_statistics
from trainer_module.monitored import MonitoredImages

ALL = "all"
# Slices with fewer images on either side are shown, but not tested.
MIN_IMAGES = 20
_RESAMPLES = 2000
_TAIL = 0.025  # on each side of a confidence interval


def compare(
    reference: MonitoredImages, window: MonitoredImages, seed: int = 0
) -> tuple[list[SliceQuality], list[Comparison]]:
    """Compares all slices of images with feedback.

    Args:
      reference: The test split.
      window: The requests; the quality of images without feedback is NaN.
      seed: Of the resampling.

    Returns:
      The quality by slice, all images first, then the worst; and the tests of those that are large enough.
    """
    expected, observed = _by_slice(reference), _by_slice(window)
    slices, tests = [], []
    for name, values in observed.items():
        before = expected.get(name)
        low, high = interval(values, seed)
        described = {"slice": name, "images": len(values), "value": float(values.mean()), "low": low, "high": high}
        if before is not None:
            reference_low, reference_high = interval(before, seed)
            described |= {"reference": float(before.mean()), "reference_low": reference_low}
            described |= {"reference_high": reference_high}
            if min(len(values), len(before)) >= MIN_IMAGES:
                result = _lower(before, values, seed)
                tests.append(
                    Comparison("quality", name, result[0], result[1], float(before.mean()), float(values.mean()))
                )
        slices.append(SliceQuality.model_validate(described))
    return sorted(slices, key=lambda each: (each.slice != ALL, each.value)), tests


def _by_slice(images: MonitoredImages) -> dict[str, np.ndarray]:
    """Returns the known qualities by slice: `all`, `label=NAME`, `brightness=dark` and so on."""
    members: dict[str, list[float]] = {}
    for index in np.flatnonzero(~np.isnan(images.quality)).tolist():
        value = float(images.quality[index])
        names = [ALL, *(f"label={name}" for name in images.labels[index])]
        if images.statistics is not None:
            values = image_statistics.slices_of(images.statistics[index])
            names += [f"{name}={slice_value}" for name, slice_value in values.items()]
        for name in names:
            members.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in members.items()}


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a mean: Wilson's for shares, otherwise by the bootstrap.

    Reference: Brown, Cai & DasGupta 2001, https://doi.org/10.1214/ss/1009213286, section 3.1.1; Efron & Tibshirani
    1993, An Introduction to the Bootstrap, section 13.3 (percentiles).
    """
    if _is_binary(values):
        from scipy import stats

        ends = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
        return float(ends.low), float(ends.high)
    drawn = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [_TAIL, 1.0 - _TAIL])
    return float(low), float(high)


def _lower(reference: np.ndarray, window: np.ndarray, seed: int) -> tuple[str, TwoSampleTest]:
    """Tests whether the mean of the window is lower."""
    from scipy import stats

    difference = float(reference.mean() - window.mean())
    if _is_binary(reference) and _is_binary(window):
        table = [[int(each.sum()), int(len(each) - each.sum())] for each in (window, reference)]
        return "Fisher", TwoSampleTest(difference, float(stats.fisher_exact(table, alternative="less").pvalue))
    result = stats.mannwhitneyu(window, reference, alternative="less", method="asymptotic")
    return "Mann-Whitney", TwoSampleTest(difference, float(result.pvalue))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def worse_slices(slices: Sequence[SliceQuality], drifted: frozenset[str]) -> tuple[SliceQuality, ...]:
    """Marks the slices whose test detected drift."""
    return tuple(each.model_copy(update={"worse": each.slice in drifted}) for each in slices)
