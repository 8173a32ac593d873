"""Compares a detector with predictors that ignore the image, on a sample of the images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from trainer_module.boxes.overlap import pairwise_coverage, pairwise_iou
from trainer_module.evaluation.baselines import (
    BaselineComparison,
    ConstantBaseline,
    Evidence,
    ImageSample,
    compare_scores,
    exchange_test,
    not_compared,
    sign_flip_test,
    to_units,
)
from trainer_module.evaluation.box_matching import IOU_THRESHOLDS, Detections, Objects

# The boxes of the constant predictors: in the middle, with these shares of the height and of the width of the image.
_SHARES = (0.25, 0.5, 0.75, 1.0)
CONSTANT_BOXES = np.array(
    [
        (0.5 - height / 2, 0.5 - width / 2, 0.5 + height / 2, 0.5 + width / 2)
        for height, width in itertools.product(_SHARES, _SHARES)
    ]
)
# Detections of an image that are compared, by score; bounds memory.
_MOST_DETECTIONS = 100

# Evidence, besides what every task has, for n images with objects: scores of the detections of image j compared with
# the objects of image i, int64 [n, n]; the same of detections without errors; and of the best constant predictor,
# int64 [n], with its class and its box in `CONSTANT_BOXES`, int64 [2].
_SCORES, _PERFECT, _CONSTANT, _BEST = "scores", "perfect_scores", "constant_scores", "best_constant"


def sampled_image(objects: Objects, detections: Detections, image_size: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Returns what is kept of an image; boxes are normalised, which does not change their IoU.

    Args:
      objects: The ground truth.
      detections: The predictions.
      image_size: (height, width) of the original image, pixels.

    Returns:
      Objects that count and others, float32 [G, 5] and [I, 5], and at most 100 detections by falling score, float32
      [D, 5]: boxes and class ids.
    """
    scale = np.array([*image_size, *image_size])
    best = np.argsort(-detections.scores, kind="stable")[:_MOST_DETECTIONS]

    def columns(boxes: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        return np.column_stack([boxes / scale, class_ids]).astype(np.float32)

    counted = objects.counted
    return (
        columns(objects.boxes[counted], objects.class_ids[counted]),
        columns(objects.boxes[~counted], objects.class_ids[~counted]),
        columns(detections.boxes[best], detections.class_ids[best]),
    )


def evidence(sample: ImageSample) -> Evidence:
    """Computes the scores of all pairs of images in the sample, and those of the constant predictors."""
    images = sample.images()
    truths = _Truths(images)
    constant = [
        truths.scores(np.append(box, class_id).astype(np.float32)[np.newaxis])
        for class_id in truths.class_ids()
        for box in CONSTANT_BOXES
    ]
    best = int(np.argmax(np.sum(constant, axis=1))) if constant else 0
    class_index, box_index = divmod(best, len(CONSTANT_BOXES))
    shape = (len(images), len(images))
    return {
        _SCORES: np.array([truths.scores(detected) for _, _, detected in images], np.int64).reshape(shape).T,
        _PERFECT: np.array([truths.scores(counted) for counted, _, _ in images], np.int64).reshape(shape).T,
        _CONSTANT: np.asarray(constant[best] if constant else np.zeros(0, np.int64)),
        _BEST: np.array([truths.class_ids()[class_index], box_index] if constant else [0, 0], np.int64),
    }


class _Truths:
    """The ground truth of the images of a sample, side by side."""

    def __init__(self, images: Sequence[tuple[np.ndarray, ...]]) -> None:
        """Args: the images, from `sampled_image`, each with objects that count."""
        self._counted, self._counted_owner = _join([counted for counted, _, _ in images])
        self._ignored, self._ignored_owner = _join([ignored for _, ignored, _ in images])
        self._num = len(images)

    def class_ids(self) -> list[int]:
        """The classes of the objects."""
        return list(map(int, np.unique(self._counted[:, 4])))

    def scores(self, detections: np.ndarray) -> np.ndarray:
        """Scores the same detections for every image.

        At each IoU threshold, an object is found by the first detection of its class that reaches it. The score is the
        mean, over thresholds and objects, of the precision at the rank of this detection: the share of the detections
        up to it that find an object, at most 1. An object that is never found counts as 0. All classes are in one
        ranking; detections of low score cost nothing. A detection that is at least half inside an object of its class
        that need not be detected, and finds none that counts, has no rank.

        Args:
          detections: float32 [D, 5], by falling score.

        Returns:
          int64 [n], in units of 1 / `SCORE_UNITS`.
        """
        if not len(detections):
            return np.zeros(self._num, np.int64)
        overlaps = pairwise_iou(detections[:, :4], self._counted[:, :4])
        overlaps[detections[:, 4:] != self._counted[:, 4]] = 0.0
        ranks = self._ranks(detections, overlaps)[:, self._counted_owner]
        # The rank of the first detection that finds each object, by threshold; sorted within the image.
        reached = overlaps >= IOU_THRESHOLDS[:, np.newaxis, np.newaxis].astype(np.float32)
        first = np.where(reached.any(axis=1), np.take_along_axis(ranks, reached.argmax(axis=1), axis=0), np.inf)
        first = np.take_along_axis(first, np.lexsort((first, np.tile(self._counted_owner, (len(first), 1)))), axis=1)
        starts = np.searchsorted(self._counted_owner, np.arange(self._num))
        numbers = np.arange(len(self._counted_owner)) - starts[self._counted_owner] + 1
        precision = np.minimum(1.0, numbers / first).mean(axis=0)
        return to_units(np.add.reduceat(precision, starts) / np.bincount(self._counted_owner))

    def _ranks(self, detections: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
        """Returns the rank of every detection in every image, from 1: float [D, n]."""
        has_rank = np.ones((len(detections), self._num), bool)
        if len(self._ignored):
            covered = pairwise_coverage(detections[:, :4], self._ignored[:, :4]) >= IOU_THRESHOLDS[0]
            rows, columns = np.nonzero(covered & (detections[:, 4:] == self._ignored[:, 4]))
            has_rank[rows, self._ignored_owner[columns]] = False
            rows, columns = np.nonzero(overlaps >= IOU_THRESHOLDS[0])
            has_rank[rows, self._counted_owner[columns]] = True
        return np.asarray(np.maximum(1, np.cumsum(has_rank, axis=0)), np.float64)


def _join(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates float32 [k, 5] arrays; returns the index of its array for every row too."""
    joined = np.concatenate([np.zeros((0, 5), np.float32), *arrays])
    return joined, np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])


# === Rules ===

_NO_OBJECTS = "no evaluated image has objects that count"
_SCORE = "mean precision of the detections of an image"


def _compare_with_constant(counts: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares with the constant predictor that has the highest score: one box of one class in every image."""
    baseline = counts[_CONSTANT]
    if not len(baseline):
        return not_compared(_SCORE, _NO_OBJECTS)
    class_id, box = counts[_BEST].tolist()
    _, _, height, width = 2.0 * CONSTANT_BOXES[box] - 1.0
    name = f"a `{classes[class_id]}` in the middle of every image, {height:g} of its height and {width:g} of its width"
    return compare_scores(_SCORE, sign_flip_test(np.diagonal(counts[_SCORES]), baseline), name)


def _compare_with_exchanged(counts: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares with the model's own detections, exchanged between the images at random."""
    scores = counts[_SCORES]
    if not len(scores):
        return not_compared(_SCORE, _NO_OBJECTS)
    return compare_scores(_SCORE, exchange_test(scores, counts[_PERFECT]), "its detections of other images")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The mean precision of the detections of an image is above that of one constant box, whatever its "
        "class and size, by more than sampling error.",
        compare=_compare_with_constant,
    ),
    ConstantBaseline(
        name="chance",
        description="The mean precision of the detections of an image is above that of the model's detections of other "
        "images, by more than sampling error.",
        compare=_compare_with_exchanged,
    ),
)
