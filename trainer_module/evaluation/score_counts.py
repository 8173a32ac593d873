"""Counts of scores by class, from which areas under ROC curves are computed; of bounded size."""

from __future__ import annotations

import numpy as np


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

    def auc(self, num_classes: int) -> np.ndarray:
        """Area under the ROC curve of each class, float64 [C]; NaN where positive or negative examples are missing.

        It is the share of the pairs of a positive and a negative example in which the positive one has the higher
        score; ties count half (Hanley & McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747).
        """
        keys, counts = self._counts.keys, self._counts.counts
        bounds = np.searchsorted(keys, np.arange(num_classes + 1) << 33)
        areas = np.full(num_classes, np.nan)
        for class_id in range(num_classes):
            part = slice(bounds[class_id], bounds[class_id + 1])
            scores, first = np.unique(keys[part] >> 1, return_index=True)
            if not len(scores):
                continue
            positive_counts = np.where(keys[part] & 1, counts[part], 0)
            positives = np.add.reduceat(positive_counts, first)
            negatives = np.add.reduceat(counts[part] - positive_counts, first)
            if positives.sum() and negatives.sum():
                lower = np.cumsum(negatives) - negatives
                num_pairs = float(positives.sum()) * float(negatives.sum())
                areas[class_id] = (positives * (lower + negatives / 2.0)).sum() / num_pairs
        return areas

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
