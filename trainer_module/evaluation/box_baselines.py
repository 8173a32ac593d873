"""Compares a detector with predictors that ignore the image, image by image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer_module.boxes import transforms
from trainer_module.boxes.overlap import pairwise_iou
from trainer_module.evaluation.baselines import (
    CORRECT,
    OCCURRING,
    PREDICTED,
    BaselineComparison,
    ConstantBaseline,
    Evidence,
    compare_by_images,
    decisive,
)
from trainer_module.evaluation.box_matching import IOU_THRESHOLDS, Detections, ImageOutcomes, Objects, image_score

# The boxes of the constant predictors: in the middle, with these shares of the height and of the width of the image.
_SHARES = (0.25, 0.5, 0.75, 1.0)
CONSTANT_BOXES = np.array(
    [
        (0.5 - height / 2, 0.5 - width / 2, 0.5 + height / 2, 0.5 + width / 2)
        for height, width in itertools.product(_SHARES, _SHARES)
    ]
)

# Evidence, besides what every task has: numbers of images on which the model is better than a constant predictor,
# worse, and can be better, int64 [3, C, boxes]; and the same for mirrored detections, int64 [3].
_CONSTANT, _MIRRORED = "constant", "mirrored"
_KINDS = (OCCURRING, PREDICTED, CORRECT)
_EQUAL = 1e-9  # largest difference of equal scores


class ImageEvidence(NamedTuple):
    """What one image adds to the evidence.

    Attributes:
      presence: bool [1, 3, C], classes that occur, are predicted, and are predicted correctly.
      constant: bool [1, 3, C, boxes], whether the model is better than a constant predictor, worse, can be better.
      mirrored: bool [1, 3], the same for mirrored detections.
    """

    presence: np.ndarray
    constant: np.ndarray
    mirrored: np.ndarray


def image_evidence(
    objects: Objects, detections: Detections, outcomes: ImageOutcomes, image_size: Sequence[float], num_classes: int
) -> ImageEvidence:
    """Compares the detections of one image with those of predictors that ignore it.

    Args:
      objects: The ground truth.
      detections: The predictions.
      outcomes: Their comparison.
      image_size: (height, width) of the original image, pixels.
      num_classes: C.
    """
    presence = np.zeros((1, len(_KINDS), num_classes), bool)
    # Of all detections, whatever their score: the threshold of those that are served can be changed without training.
    correct, counted = (bits & np.uint64(1) != 0 for bits in (outcomes.correct, outcomes.counted))
    presence[0, 0, outcomes.object_ids] = presence[0, 1, outcomes.class_ids[counted]] = True
    presence[0, 2, outcomes.class_ids[correct]] = True
    constant = np.zeros((1, 3, num_classes, len(CONSTANT_BOXES)), bool)
    mirrored = np.zeros((1, 3), bool)
    if len(outcomes.object_ids):
        score = image_score(objects, detections)
        constant[0] = _compare(score, _constant_scores(objects, image_size, num_classes))
        flipped = detections._replace(boxes=transforms.flip_horizontally(detections.boxes, image_size[1]))
        mirrored[0] = _compare(score, np.array(image_score(objects, flipped)))
        mirrored[0, 2] = not _is_symmetric(objects, image_size[1])
        mirrored[0] &= mirrored[0, 2]
    return ImageEvidence(presence, constant, mirrored)


def evidence(presence: np.ndarray, constant: np.ndarray, mirrored: np.ndarray) -> Evidence:
    """Names the sums of `ImageEvidence` over all images."""
    return dict(zip(_KINDS, presence, strict=True)) | {_CONSTANT: constant, _MIRRORED: mirrored}


def _compare(score: float, other: np.ndarray) -> np.ndarray:
    """Whether a score is better, worse, and could be better: bool [3, ...]."""
    return np.stack([score > other + _EQUAL, score < other - _EQUAL, other < 1.0 - _EQUAL])


def _constant_scores(objects: Objects, image_size: Sequence[float], num_classes: int) -> np.ndarray:
    """Returns `image_score` of a single detection of every class with every constant box, float64 [C, boxes]."""
    counted = objects.counted
    boxes = CONSTANT_BOXES * (list(image_size) * 2)
    overlaps = pairwise_iou(objects.boxes[counted], boxes)  # [G, boxes]
    best = np.zeros((num_classes, len(boxes)))
    np.maximum.at(best, objects.class_ids[counted], overlaps)
    return np.asarray((best[..., np.newaxis] >= IOU_THRESHOLDS).mean(axis=-1) / counted.sum())


def _is_symmetric(objects: Objects, width: float) -> bool:
    """Whether the mirrored objects of an image would be correct detections, at all thresholds."""
    counted = objects.counted
    boxes, class_ids = objects.boxes[counted], objects.class_ids[counted]
    overlaps = pairwise_iou(boxes, transforms.flip_horizontally(boxes, width))
    same_class = class_ids[:, np.newaxis] == class_ids
    return bool((overlaps * same_class >= IOU_THRESHOLDS[-1]).any(axis=1).all())


# === Rules ===


def _compare_with_constant(counts: Evidence, classes: Sequence[str]) -> BaselineComparison:
    """Compares with one box of one class in every image: the model must be better than all boxes of all classes."""
    comparisons = [
        _by_images(counts[_CONSTANT][:, class_id, box], f"a constant box of `{name}`")
        for class_id, name in enumerate(classes)
        if counts[OCCURRING][class_id]
        for box in range(len(CONSTANT_BOXES))
    ]
    return decisive(comparisons, _by_images((0, 0, 0), "a constant box"))


def _compare_with_mirrored(counts: Evidence, classes: Sequence[str]) -> BaselineComparison:
    return _by_images(counts[_MIRRORED], "its own mirrored detections")


def _by_images(images: Sequence[int] | np.ndarray, baseline: str) -> BaselineComparison:
    better, worse, beatable = map(int, images)
    score = f"share of images with a higher score than {baseline}"
    return compare_by_images(score, better, worse, beatable, "no evaluated image has objects that count")


CONSTANT_BASELINES = (
    ConstantBaseline(
        name="constant",
        description="The precision of the detections of an image is higher than that of one constant box, whatever its "
        "class and size, on more images than it is lower, by more than sampling error.",
        compare=_compare_with_constant,
    ),
    # If detections do not depend on the image, and objects are as frequent on the left as on the right, both are
    # equally likely to be better, wherever a model puts its boxes.
    ConstantBaseline(
        name="chance",
        description="The precision of the detections of an image is higher than that of the same detections mirrored "
        "left to right, on more images than it is lower, by more than sampling error.",
        compare=_compare_with_mirrored,
    ),
)
