"""Metrics that follow from a confusion matrix, of examples or of pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer_module.evaluation.spec import MetricSpec


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """A confusion matrix and its metrics per class, computed once.

    Metrics are float64 [C]; NaN where they are undefined.

    Attributes:
      counts: int64 [C, C]; rows are the ground truth, columns the predicted classes. There may be further columns, of
        predictions that are never correct.
    """

    counts: np.ndarray

    @functools.cached_property
    def support(self) -> np.ndarray:
        """How often each class occurs in the ground truth, int64 [C]."""
        return np.asarray(self.counts.sum(axis=1))

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """How often each class is predicted, int64 [C]."""
        return np.asarray(self.counts.sum(axis=0)[: len(self.counts)])

    @property
    def occurs(self) -> np.ndarray:
        """Whether each class occurs in the ground truth or in the predictions, bool [C]."""
        return np.asarray(self.support + self.predicted > 0)

    @property
    def accuracy(self) -> float:
        """Share of the diagonal; NaN if the matrix is empty."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else math.nan

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """Correct share of the predictions of a class; 0 if it occurs and is never predicted."""
        return np.where(self.occurs & (self.predicted == 0), 0.0, divide(self.correct, self.predicted))

    @functools.cached_property
    def recall(self) -> np.ndarray:
        """Correct share of what belongs to a class."""
        return divide(self.correct, self.support)

    @functools.cached_property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall; of pixels, this is the Dice coefficient."""
        return divide(2.0 * self.correct, self.support + self.predicted)

    @functools.cached_property
    def iou(self) -> np.ndarray:
        """Intersection of ground truth and predictions of a class over their union."""
        return divide(self.correct, self.support + self.predicted - self.correct)

    @property
    def correct(self) -> np.ndarray:
        """How often each class is predicted correctly, int64 [C]."""
        return np.diag(self.counts)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides values per class, float64 [C]; NaN where the denominator is 0."""
    quotient = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def mean_over_classes(values: np.ndarray, counted: np.ndarray | None = None) -> float:
    """The mean over classes; NaN if no class counts.

    Args:
      values: float64 [C].
      counted: bool [C], the classes that count, with 0 where their value is undefined; if not given, those whose value
        is defined.
    """
    counted = ~np.isnan(values) if counted is None else counted
    return float(np.nan_to_num(values[counted]).mean()) if counted.any() else math.nan


def mean_weighted_by_support(values: np.ndarray, support: np.ndarray) -> float:
    """The mean over the classes that occur in the ground truth, weighted by how often; NaN if none does."""
    occurs = support > 0
    return float(np.average(values[occurs], weights=support[occurs])) if occurs.any() else math.nan


def precision_and_recall(
    matrix: Callable[[Any], ConfusionMatrix], unit: str, mean_prefix: str = ""
) -> tuple[MetricSpec, MetricSpec]:
    """Precision and recall of every class.

    Args:
      matrix: Summary of an accumulator → its confusion matrix.
      unit: What the matrix counts: "examples", "pixels".
      mean_prefix: `mean_prefix` + `precision` is the metric that is its mean over the classes; empty if there is none.
    """
    return (
        MetricSpec(
            name="precision",
            description=f"Correct share of the {unit} that are predicted as the class.",
            scope="per_class",
            undefined_when=f"the class has no {unit} and is never predicted",
            mean_metric=f"{mean_prefix}precision" if mean_prefix else None,
            compute=lambda summary: matrix(summary).precision,
            chance=lambda shares: shares,
        ),
        MetricSpec(
            name="recall",
            description=f"Share of the {unit} of the class that are predicted correctly.",
            scope="per_class",
            undefined_when=f"the class has no {unit}",
            mean_metric=f"{mean_prefix}recall" if mean_prefix else None,
            compute=lambda summary: matrix(summary).recall,
            chance=lambda shares: shares,
        ),
    )
