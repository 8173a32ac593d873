"""Outcomes of detections by score, from which precision-recall curves are computed; of bounded size.

Up to a limit every detection is kept, with one bit per curve, and precision is exact. Beyond it, neighbours in the
ranking are grouped: a group that follows n counted detections contains at most about a share e of n, in every curve,
and only its sums are kept. At the end of a group precision is exact; inside it the outcomes are taken as evenly mixed,
so that it is wrong by at most e. The share e starts at 2^-12 and doubles until the groups fit.

The error adds up if groups are grouped again, which happens once for each time that the limit is reached.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Recall values at which the precision is averaged.
RECALLS = np.linspace(0.0, 1.0, 101)
# Detections that are kept exactly, in total or of each class if that is more: 24 bytes each.
_MAX_DETECTIONS, _MAX_DETECTIONS_PER_CLASS = 1 << 18, 1 << 14
# Groups: 12 bytes plus 8 for each curve.
_MAX_GROUPS, _MAX_GROUPS_PER_CLASS = 1 << 15, 1 << 10
_SMALLEST_SHARE = 2.0**-12
# Counts that are unpacked at once; limits temporary memory.
_MAX_UNPACKED = 1 << 22


class Ranked(NamedTuple):
    """Detections of one class by falling score: those with the same score are in the order in which they were added.

    Attributes:
      scores: float32 [n].
      correct: int64 [n, S], cumulative number of true positives in every curve.
      counted: int64 [n, S], cumulative number of true and false positives.
    """

    scores: np.ndarray
    correct: np.ndarray
    counted: np.ndarray


class Curve(NamedTuple):
    """The interpolated precision-recall curve of one class.

    Attributes:
      precision: float64 [101], at the recalls of `RECALLS`: the largest precision at this recall or a larger one.
      scores: float32 [101], the score at which the recall is reached; NaN where it is not.
    """

    precision: np.ndarray
    scores: np.ndarray


class _Groups(NamedTuple):
    """Sums over neighbours in the ranking; a single detection is a group too.

    Attributes:
      class_ids: int32 [n].
      scores: float32 [n], the smallest score of the group.
      correct: int32 [n, S], true positives.
      counted: int32 [n, S], true and false positives.
    """

    class_ids: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    counted: np.ndarray


class RankedOutcomes:
    """The outcomes of detections in several curves, by class and score."""

    def __init__(self, num_classes: int, num_curves: int, max_detections: int = 0, max_groups: int = 0) -> None:
        """Starts without any.

        Args:
          num_classes: C.
          num_curves: S, at most 64.
          max_detections: Detections that are kept exactly; 0 for 262,144, or 16,384 times C if that is more.
          max_groups: Groups that are kept beyond that; 0 for 32,768, or 1,024 times C if that is more.
        """
        self._num_classes, self._num_curves = num_classes, num_curves
        self._max_detections = max_detections or max(_MAX_DETECTIONS, _MAX_DETECTIONS_PER_CLASS * num_classes)
        self._max_groups = max_groups or max(_MAX_GROUPS, _MAX_GROUPS_PER_CLASS * num_classes)
        self._share = _SMALLEST_SHARE
        self._single = _no_detections()
        self._groups = self._no_groups()

    @property
    def is_exact(self) -> bool:
        """Whether every detection is kept."""
        return not len(self._groups.scores)

    def add(self, class_ids: np.ndarray, scores: np.ndarray, correct: np.ndarray, counted: np.ndarray) -> None:
        """Adds detections.

        Args:
          class_ids: int [n].
          scores: float32 [n].
          correct: uint64 [n], bit s: a true positive in curve s.
          counted: uint64 [n], bit s: a true or false positive in curve s.
        """
        used = counted != 0
        added = (class_ids[used].astype(np.int32), scores[used].astype(np.float32), correct[used], counted[used])
        self._single = tuple(map(np.concatenate, zip(self._single, added, strict=True)))
        self._shrink()

    def merge(self, other: RankedOutcomes) -> None:
        """Adds the detections of another, which is not changed."""
        self._share = max(self._share, other._share)
        self._groups = _Groups(*map(np.concatenate, zip(self._groups, other._groups, strict=True)))
        self.add(*other._single)

    def ranked(self, class_id: int, curves: slice) -> Ranked:
        """Returns the cumulative outcomes of a class in some of the curves."""
        class_ids, scores, correct, counted = self._single
        rows = np.flatnonzero(class_ids == class_id)
        group_rows = np.flatnonzero(self._groups.class_ids == class_id)
        all_scores = np.concatenate([self._groups.scores[group_rows], scores[rows]])
        order = np.argsort(-all_scores, kind="stable")
        numbers = np.arange(self._num_curves, dtype=np.uint64)[curves]

        def cumulative(groups: np.ndarray, bits: np.ndarray) -> np.ndarray:
            joined = np.concatenate([groups[group_rows, curves], _unpack(bits[rows], numbers)])
            return np.cumsum(joined[order], axis=0, dtype=np.int64)

        return Ranked(
            all_scores[order], cumulative(self._groups.correct, correct), cumulative(self._groups.counted, counted)
        )

    def num_correct(self) -> np.ndarray:
        """Returns the number of true positives, int64 [C, S]."""
        totals = np.zeros((self._num_classes, self._num_curves), np.int64)
        np.add.at(totals, self._groups.class_ids, self._groups.correct)
        for curve in range(self._num_curves):
            bits = _unpack(self._single[2], np.array([curve], np.uint64))[:, 0]
            totals[:, curve] += np.bincount(self._single[0][bits], minlength=self._num_classes)
        return totals

    def average_precision(self, num_objects: np.ndarray) -> np.ndarray:
        """Computes the average precision of every class in every curve.

        It is the mean of the interpolated precision at 101 recalls.

        Args:
          num_objects: int64 [C, S], objects that have to be detected.

        Returns:
          float64 [C, S], range [0, 1]; NaN without objects.

        Reference: Lin et al. 2014, https://arxiv.org/abs/1405.0312, as in pycocotools 2.0.
        """
        values = np.full(num_objects.shape, np.nan)
        for class_id in np.flatnonzero(num_objects.any(axis=1)).tolist():
            for curves, ranked in self._ranked_in_parts(class_id):
                for column, curve in enumerate(range(curves.start, curves.stop)):
                    if num := int(num_objects[class_id, curve]):
                        values[class_id, curve] = _interpolated(ranked, column, num).precision.mean()
        return values

    def curve(self, class_id: int, curve: int, num_objects: int) -> Curve:
        """Computes one precision-recall curve; all NaN without objects."""
        if not num_objects:
            return Curve(np.full(len(RECALLS), np.nan), np.full(len(RECALLS), np.nan, np.float32))
        return _interpolated(self.ranked(class_id, slice(curve, curve + 1)), 0, num_objects)

    def _ranked_in_parts(self, class_id: int) -> Iterator[tuple[slice, Ranked]]:
        """Yields the outcomes of a class for some of the curves at a time, so that memory is limited."""
        size = int((self._single[0] == class_id).sum() + (self._groups.class_ids == class_id).sum())
        step = max(1, _MAX_UNPACKED // max(1, size))
        for first in range(0, self._num_curves, step):
            curves = slice(first, min(first + step, self._num_curves))
            yield curves, self.ranked(class_id, curves)

    def _no_groups(self) -> _Groups:
        counts = np.zeros((0, self._num_curves), np.int32)
        return _Groups(np.zeros(0, np.int32), np.zeros(0, np.float32), counts, counts)

    def _shrink(self) -> None:
        if len(self._single[0]) <= self._max_detections and len(self._groups.scores) <= self._max_groups:
            return
        grouped = self._group()
        while len(grouped.scores) > self._max_groups:
            self._share *= 2.0
            grouped = self._group()
        self._groups, self._single = grouped, _no_detections()

    def _group(self) -> _Groups:
        """Groups all detections and groups."""
        parts = [self._group_class(class_id) for class_id in range(self._num_classes)]
        return _Groups(*map(np.concatenate, zip(*parts, strict=True)))

    def _group_class(self, class_id: int) -> _Groups:
        """Groups neighbours whose numbers of counted detections have the same level in every curve.

        Levels are whole numbers up to 1 / share, and then grow with the logarithm, by 1 / share for each factor of e.
        """
        scores = self.ranked(class_id, slice(0)).scores
        if not len(scores):
            return self._no_groups()
        is_last = np.zeros(len(scores), bool)
        is_last[-1] = True
        for _, ranked in self._ranked_in_parts(class_id):
            share = ranked.counted * self._share
            levels = np.floor(np.where(share <= 1.0, share, 1.0 + np.log(np.maximum(share, 1.0))) / self._share)
            is_last[:-1] |= (levels[1:] != levels[:-1]).any(axis=1)

        def sums(cumulative: np.ndarray) -> np.ndarray:
            return np.diff(cumulative[is_last], axis=0, prepend=0).astype(np.int32)

        parts = [(sums(ranked.correct), sums(ranked.counted)) for _, ranked in self._ranked_in_parts(class_id)]
        correct, counted = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
        return _Groups(np.full(len(correct), class_id, np.int32), scores[is_last], correct, counted)


def _no_detections() -> tuple[np.ndarray, ...]:
    return np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.uint64), np.zeros(0, np.uint64)


def _unpack(bits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """uint64 [n] → bool [n, len(numbers)], the bits with these numbers."""
    return np.asarray((bits[:, np.newaxis] >> numbers) & np.uint64(1)).astype(bool)


def _interpolated(ranked: Ranked, column: int, num_objects: int) -> Curve:
    """Computes the curve of one column."""
    correct, counted = ranked.correct[:, column], ranked.counted[:, column]
    needed = _needed(num_objects)
    precision, scores = np.zeros(len(needed)), np.full(len(needed), np.nan, np.float32)
    reached = needed <= (correct[-1] if len(correct) else -1)
    needed = needed[reached]
    index = np.searchsorted(correct, needed)
    # Pairs of sums after and before each entry; inside a group the true positives are evenly spread.
    before_correct, before_counted = (np.where(index, sums[index - 1], 0) for sums in (correct, counted))
    gained = np.maximum(correct[index] - before_correct, 1)
    at_recall = before_counted + (counted[index] - before_counted) * (needed - before_correct) / gained
    largest = np.maximum.accumulate((correct / np.maximum(counted, 1))[::-1])[::-1]
    precision[reached] = np.maximum(largest[index], np.where(needed, needed / np.maximum(at_recall, 1), 0.0))
    scores[reached] = ranked.scores[index]
    return Curve(precision, scores)


@functools.lru_cache(maxsize=4096)
def _needed(num_objects: int) -> np.ndarray:
    """The smallest numbers of true positives with at least the recalls of `RECALLS`, int64 [101]."""
    needed = np.ceil(RECALLS * num_objects).astype(np.int64)
    # Products are rounded; what counts is the quotient.
    needed -= (needed - 1) / num_objects >= RECALLS
    return np.asarray(needed + (needed / num_objects < RECALLS))
