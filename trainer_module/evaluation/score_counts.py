"""Counts of scores by class, from which areas under ROC and precision-recall curves are computed; of bounded size."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class ScoreOutcomes(NamedTuple):
    """Distinct scores, ascending, and how many examples with each belong to the class, or do not.

    Attributes:
      scores: float32 [k].
      positives: int64 [k], examples that belong to the class.
      negatives: int64 [k], the others.
    """

    scores: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @property
    def num_positives(self) -> float:
        """Number of examples that belong to the class; a float, since products of counts can exceed 64 bits."""
        return float(self.positives.sum())

    @property
    def num_negatives(self) -> float:
        """Number of the other examples."""
        return float(self.negatives.sum())

    def auc(self) -> float:
        """Computes the area under the ROC curve; NaN where positive or negative examples are missing.

        It is the share of the pairs of a positive and a negative example in which the positive one has the higher
        score; ties count half (Hanley & McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747).
        """
        num_pairs = self.num_positives * self.num_negatives
        if not num_pairs:
            return math.nan
        lower = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (lower + self.negatives / 2.0)).sum() / num_pairs)

    def average_precision(self) -> float:
        """Computes the sum of the precision at each score times the recall that is gained there; NaN without positives.

        Examples with equal scores count together, and nothing is interpolated, as in scikit-learn's
        `average_precision_score`.
        """
        if not self.num_positives:
            return math.nan
        precision, recall = self._curve()
        return float((np.diff(recall, prepend=0.0) * precision).sum())

    def precision_at(self, recalls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the best precision with at least each recall, and the score at which the recall is reached.

        Args:
          recalls: float64 [r], ascending.

        Returns:
          float64 [r] each; NaN without positives.
        """
        if not self.num_positives:
            return np.full(len(recalls), np.nan), np.full(len(recalls), np.nan)
        precision, recall = self._curve()
        best = np.maximum.accumulate(precision[::-1])[::-1]
        index = np.minimum(np.searchsorted(recall, recalls - 1e-12), len(recall) - 1)
        return best[index], self.scores[::-1][index].astype(np.float64)

    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall if the examples with at least a score are predicted, from the highest score on."""
        correct = np.cumsum(self.positives[::-1])
        predicted = np.cumsum((self.positives + self.negatives)[::-1])
        return correct / predicted, correct / self.num_positives


def _outcomes(keys: np.ndarray, counts: np.ndarray) -> ScoreOutcomes:
    """Sorted keys, whose last bit marks positives and whose next 32 are the score, and their counts."""
    bits, first = np.unique((keys >> 1) & 0xFFFFFFFF, return_index=True)
    if not len(bits):
        return ScoreOutcomes(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    positives = np.add.reduceat(np.where(keys & 1, counts, 0), first)
    scores = bits.astype(np.uint32).view(np.float32)
    return ScoreOutcomes(scores, positives, np.add.reduceat(counts, first) - positives)


class IntegerCounts:
    """How often each of many integers occurred: sorted keys and their counts, int64."""

    def __init__(self) -> None:
        """Starts without any."""
        self.keys = np.empty(0, np.int64)
        self.counts = np.empty(0, np.int64)

    def add(self, keys: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Adds keys, each once or as often as `counts` says."""
        counts = np.ones(len(keys), np.int64) if counts is None else counts
        keys, inverse = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        # Exact: doubles represent integers up to 2^53.
        total = np.bincount(inverse, weights=np.concatenate([self.counts, counts]), minlength=len(keys))
        self.keys, self.counts = keys, total.astype(np.int64)


class ScoreCounts:
    """The scores of each class, separately for examples that belong to it and examples that do not.

    Exact up to `limit` distinct ones; beyond that the last bits of the scores are dropped, one after the other, so that
    scores that agree in the others count as ties.
    """

    def __init__(self, limit: int) -> None:
        """Starts without any.

        Args:
          limit: Largest number of distinct scores that are kept, 16 bytes each.
        """
        self._counts = IntegerCounts()
        self._limit = limit
        self._dropped_bits = 0

    def add(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """Adds the scores of examples.

        Args:
          scores: float32 [n, C], 0 or more.
          positive: bool [n, C], whether the example belongs to the class.
        """
        # The bits of floats that are not negative have the order of the floats.
        bits = np.maximum(scores, 0.0).astype(np.float32).view(np.uint32).astype(np.int64)
        keys = (np.arange(scores.shape[1]) << 33) | (self._truncate(bits) << 1) | positive
        self._counts.add(keys.ravel())
        self._shrink()

    def merge(self, other: ScoreCounts) -> None:
        """Adds the scores of another, which is not changed; at the coarser of both resolutions."""
        self._dropped_bits = max(self._dropped_bits, other._dropped_bits)
        self._recount(
            np.concatenate([self._counts.keys, other._counts.keys]), [self._counts.counts, other._counts.counts]
        )
        self._shrink()

    def by_class(self, num_classes: int) -> list[ScoreOutcomes]:
        """Returns the scores of each class."""
        keys, counts = self._counts.keys, self._counts.counts
        bounds = np.searchsorted(keys, np.arange(num_classes + 1) << 33)
        parts = [slice(bounds[class_id], bounds[class_id + 1]) for class_id in range(num_classes)]
        return [_outcomes(keys[part], counts[part]) for part in parts]

    def of_all_classes(self) -> ScoreOutcomes:
        """Returns the scores of all classes together."""
        keys = self._counts.keys & ((1 << 33) - 1)
        order = np.argsort(keys, kind="stable")
        return _outcomes(keys[order], self._counts.counts[order])

    def _truncate(self, bits: np.ndarray) -> np.ndarray:
        return bits >> self._dropped_bits << self._dropped_bits

    def _shrink(self) -> None:
        while len(self._counts.keys) > self._limit:
            self._dropped_bits += 1
            self._recount(self._counts.keys, [self._counts.counts])

    def _recount(self, keys: np.ndarray, counts: list[np.ndarray]) -> None:
        bits = (keys >> 1) & 0xFFFFFFFF
        self._counts = IntegerCounts()
        self._counts.add((keys >> 33 << 33) | (self._truncate(bits) << 1) | (keys & 1), np.concatenate(counts))
