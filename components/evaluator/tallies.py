"""The counts that all figures follow from: they add up, and stay small however many pictures there are. Pure numpy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

# Expected calibration error: bins of equal width, as many as Guo et al. 2017 (https://arxiv.org/abs/1706.04599) use.
NUM_BINS = 15
# Cross-entropy: smallest and largest probability, as Keras clips them.
_EPSILON = 1e-7
# Distinct scores of a slice that are kept exactly, 16 bytes each: of all classes, or of each if that is more.
_MAX_SCORES = 1 << 16
_MAX_SCORES_OF_A_CLASS = 1 << 8
# Probabilities that are noted before they are counted: counting sorts, and does so at leisure.
_MAX_PENDING = 1 << 16


class ClassFigures(NamedTuple):
    """What follows from a confusion matrix, float64 [C] each; NaN where a class neither occurs nor is predicted.

    Attributes:
      precision: Of what was taken for the class, the share that is of it; 0 where nothing was.
      recall: Of what is of the class, the share that was recognised; NaN where nothing is.
      f1: Their harmonic mean.
      support: How many there are.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_figures(matrix: np.ndarray) -> ClassFigures:
    """Computes what scikit-learn's classification report shows of every class.

    Args:
      matrix: int64 [C, C]; rows are the true, columns the predicted classes.
    """
    right, support, predicted = np.diag(matrix).astype(float), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(predicted > 0, right / predicted, np.where(support > 0, 0.0, np.nan))
        recall = right / support
        f1 = 2.0 * right / (support + predicted)
    return ClassFigures(precision, recall, f1, support.astype(float))


def accuracy(matrix: np.ndarray) -> float:
    """The share on the diagonal; NaN if there is nothing."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else math.nan


def macro(values: np.ndarray, counted: np.ndarray | None = None) -> float:
    """The mean over classes; NaN if there is none.

    Args:
      values: float64 [C].
      counted: bool [C], the classes that count, with 0 where they have no figure; all that have one when absent.
    """
    counted = ~np.isnan(values) if counted is None else counted
    return float(np.nan_to_num(values[counted]).mean()) if counted.any() else math.nan


def weighted(values: np.ndarray, support: np.ndarray) -> float:
    """The mean over the classes that occur, by how often they do; NaN if none does."""
    occurs = support > 0
    return float(np.average(values[occurs], weights=support[occurs])) if occurs.any() else math.nan


class _Counts:
    """How often each of many integers was seen: sorted keys and their counts, int64."""

    def __init__(self) -> None:
        self.keys = np.empty(0, np.int64)
        self.counts = np.empty(0, np.int64)

    def add(self, keys: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Adds keys, each once or as often as `counts` says."""
        counts = np.ones(len(keys), np.int64) if counts is None else counts
        keys, inverse = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        # Exact: doubles hold integers up to 2^53.
        total = np.bincount(inverse, weights=np.concatenate([self.counts, counts]), minlength=len(keys))
        self.keys, self.counts = keys, total.astype(np.int64)


class _Scores:
    """Every class's probabilities, of examples of the class and of others: what ROC curves are made of.

    Exact up to `limit` distinct ones; beyond that the last bits of the scores are dropped, one after the other,
    so that scores that agree in the others count as ties.
    """

    def __init__(self, limit: int) -> None:
        self._counts = _Counts()
        self._limit = limit
        self._dropped = 0

    def add(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds int64 [n] and float32 [n, C]."""
        num_classes = probabilities.shape[1]
        # The bits of floats that are not negative are in the order of the floats.
        bits = np.maximum(probabilities, 0.0).astype(np.float32).view(np.uint32).astype(np.int64)
        classes = np.arange(num_classes)
        keys = (classes << 33) | (self._round(bits) << 1) | (labels[:, np.newaxis] == classes)
        self._counts.add(keys.ravel())
        self._shrink()

    def merge(self, other: _Scores) -> None:
        """Adds another one's; both in the coarser of their resolutions."""
        self._dropped = max(self._dropped, other._dropped)
        self._again(
            np.concatenate([self._counts.keys, other._counts.keys]), [self._counts.counts, other._counts.counts]
        )
        self._shrink()

    def auc(self, num_classes: int) -> np.ndarray:
        """Area under the ROC curve of every class against all others, float64 [C]; NaN where either is missing.

        It is the share of pairs of an example of the class and another one in which the former has the higher
        probability; ties count half (Hanley & McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747).
        """
        keys, counts = self._counts.keys, self._counts.counts
        bounds = np.searchsorted(keys, np.arange(num_classes + 1) << 33)
        areas = np.full(num_classes, np.nan)
        for class_id in range(num_classes):
            part = slice(bounds[class_id], bounds[class_id + 1])
            scores, first = np.unique(keys[part] >> 1, return_index=True)
            if not len(scores):
                continue
            positive = np.where(keys[part] & 1, counts[part], 0)
            ours = np.add.reduceat(positive, first)
            others = np.add.reduceat(counts[part] - positive, first)
            if ours.sum() and others.sum():
                below = np.cumsum(others) - others
                areas[class_id] = (ours * (below + others / 2.0)).sum() / (float(ours.sum()) * float(others.sum()))
        return areas

    def _round(self, bits: np.ndarray) -> np.ndarray:
        return bits >> self._dropped << self._dropped

    def _shrink(self) -> None:
        while len(self._counts.keys) > self._limit:
            self._dropped += 1
            self._again(self._counts.keys, [self._counts.counts])

    def _again(self, keys: np.ndarray, counts: list[np.ndarray]) -> None:
        bits = (keys >> 1) & 0xFFFFFFFF
        self._counts = _Counts()
        self._counts.add((keys >> 33 << 33) | (self._round(bits) << 1) | (keys & 1), np.concatenate(counts))


class LabelTally:
    """Counts of single-label classification."""

    def __init__(self, num_classes: int, top_k: int) -> None:
        """Args: number of classes; the k of the top-k accuracy."""
        self.num_classes = num_classes
        self.top_k = top_k
        self._pending: list[tuple[int, np.ndarray]] = []
        self._cells = _Counts()
        self._scores = _Scores(max(_MAX_SCORES, _MAX_SCORES_OF_A_CLASS * num_classes))
        self._entropy = 0.0
        self._hits = 0
        self._bins = np.zeros((3, NUM_BINS))  # examples, sum of their confidence, right ones

    def add(self, label: int, probabilities: np.ndarray) -> None:
        """Counts one example.

        Args:
          label: Class id.
          probabilities: float32 [C].

        Raises:
          ValueError: If the label is no class's id, or the probabilities are of another number or not finite.
        """
        if not 0 <= label < self.num_classes or probabilities.shape != (self.num_classes,):
            raise ValueError(
                f"label {label} and {probabilities.shape} probabilities do not belong to {self.num_classes} classes"
            )
        if not np.isfinite(probabilities).all():
            raise ValueError("the model's probabilities are not finite")
        self._pending.append((label, probabilities))
        if len(self._pending) * self.num_classes >= _MAX_PENDING:
            self.compact()

    def merge(self, other: LabelTally) -> None:
        """Adds another one's counts; the other is left as it is, but for its order."""
        self.compact()
        other.compact()
        self._cells.add(other._cells.keys, other._cells.counts)
        self._scores.merge(other._scores)
        self._entropy += other._entropy
        self._hits += other._hits
        self._bins = self._bins + other._bins

    def compact(self) -> None:
        """Counts what has only been noted."""
        if not self._pending:
            return
        labels = np.array([label for label, _ in self._pending], np.int64)
        probabilities = np.stack([row for _, row in self._pending]).astype(np.float32)
        self._pending = []
        rows = np.arange(len(labels))
        predicted = probabilities.argmax(axis=1)
        self._cells.add(labels * self.num_classes + predicted)
        self._scores.add(labels, probabilities)
        of_truth = probabilities[rows, labels].astype(float)
        self._entropy += float(-np.log(np.clip(of_truth, _EPSILON, 1.0 - _EPSILON)).sum())
        # Of equally probable classes the first ones are taken, as argmax does.
        higher = probabilities > probabilities[rows, labels][:, np.newaxis]
        equal = probabilities == probabilities[rows, labels][:, np.newaxis]
        before = equal & (np.arange(self.num_classes) < labels[:, np.newaxis])
        self._hits += int(((higher | before).sum(axis=1) < self.top_k).sum())
        confidence = probabilities[rows, predicted].astype(float)
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
        added = (np.ones(len(rows)), confidence, (predicted == labels).astype(float))
        self._bins = self._bins + np.stack([np.bincount(bins, values, NUM_BINS) for values in added])

    def __getstate__(self) -> dict[str, Any]:
        # What is only noted would be sent row by row.
        self.compact()
        return self.__dict__

    def matrix(self) -> np.ndarray:
        """Examples by true (row) and most probable class (column), int64 [C, C]."""
        self.compact()
        matrix = np.zeros(self.num_classes**2, np.int64)
        matrix[self._cells.keys] = self._cells.counts
        return matrix.reshape(self.num_classes, self.num_classes)

    def auc(self) -> np.ndarray:
        """Area under every class's ROC curve, float64 [C]; see `_Scores.auc`."""
        self.compact()
        return self._scores.auc(self.num_classes)

    def cross_entropy(self) -> float:
        """Mean negative logarithm of the true class's probability."""
        self.compact()
        return self._mean(self._entropy)

    def top_k_accuracy(self) -> float:
        """Share of examples whose class is among the `top_k` most probable ones."""
        self.compact()
        return self._mean(self._hits)

    def bins(self) -> np.ndarray:
        """Of predictions by confidence: how many, the sum of their confidence, and right ones; float64 [3, 15].

        Bin i holds confidences in (i / 15, (i + 1) / 15], the first one 0 too.
        """
        self.compact()
        return self._bins

    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the bins, by how many predictions they hold.

        Reference: Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3.
        """
        _, confidence, right = self.bins()
        return self._mean(float(np.abs(confidence - right).sum()))

    def _mean(self, total: float) -> float:
        count = self._bins[0].sum()
        return total / count if count else math.nan
