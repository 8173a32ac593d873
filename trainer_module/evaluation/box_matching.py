"""Compares the detections of one image with its objects: correct detections as in COCO, and the types of errors.

References:
  Lin et al. 2014, https://arxiv.org/abs/1405.0312, and its evaluation code (pycocotools 2.0): matching, crowd regions
    and ranges of areas.
  Bolya et al. 2020 (TIDE), https://arxiv.org/abs/2008.08115, section 2: types of errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer_module.boxes.overlap import area, pairwise_coverage, pairwise_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Smallest and largest area of an object, pixels; both belong to the range.
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
# Detections of a class and an image that count, by score.
MAX_DETECTIONS = 100
# Below this IoU a detection does not refer to an object.
_BACKGROUND_IOU = 0.1

# Types of errors. The first five are types of false positives.
ERROR_TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERROR_TYPES))
CORRECT, IGNORED = -1, -2  # of detections without an error

# Outcomes are bits: one for every area range and IoU threshold, then one for every type of false positive, which is the
# outcome at IoU 0.5 if all errors of this type were corrected.
NUM_COCO_CURVES = len(AREA_RANGES) * len(IOU_THRESHOLDS)
NUM_CURVES = NUM_COCO_CURVES + MISSED


class Objects(NamedTuple):
    """The ground truth of an image.

    Attributes:
      boxes: float64 [G, 4], pixels of the original image.
      class_ids: int [G].
      difficult: bool [G], neither missed if it is not detected nor correct if it is.
      crowd: bool [G], a region with several objects: like `difficult`, and for any number of detections inside it.
    """

    boxes: np.ndarray
    class_ids: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """Objects that have to be detected, bool [G]."""
        return np.asarray(~self.difficult & ~self.crowd)


class Detections(NamedTuple):
    """The predictions for an image, in any order.

    Attributes:
      boxes: float64 [D, 4], pixels of the original image.
      class_ids: int [D].
      scores: float32 [D].
    """

    boxes: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray


class ImageOutcomes(NamedTuple):
    """Contribution of one image to the counts.

    Attributes:
      class_ids: int64 [n], of detections, and of those that correcting their class adds to another class.
      scores: float32 [n].
      correct: uint64 [n], bit s: a true positive in curve s (see `NUM_CURVES`).
      counted: uint64 [n], bit s: a true or false positive in curve s; others are ignored.
      ranks: int64 [n], position among the detections of the class in the image, from 0; -1 for added ones.
      object_ids: int64 [g], class ids of the objects that have to be detected.
      object_ranges: bool [g, number of area ranges], the ranges that contain the object.
      cells: int64 [m, 2], true and predicted class of objects and detections at IoU 0.5; C stands for the background.
      errors: int64 [e, 2], class id and type of every error at IoU 0.5.
    """

    class_ids: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    counted: np.ndarray
    ranks: np.ndarray
    object_ids: np.ndarray
    object_ranges: np.ndarray
    cells: np.ndarray
    errors: np.ndarray


def compare(objects: Objects, detections: Detections, num_classes: int, score_threshold: float = 0.0) -> ImageOutcomes:
    """Compares detections with objects.

    A detection of high score takes the object of its class with the largest IoU that no better detection has taken;
    objects that need not be detected, and in a range of areas those outside it, are taken last. Detections that took
    such an object are ignored; and so are, in a range of areas, detections without an object whose own area is outside.

    Args:
      objects: The ground truth.
      detections: The predictions; of each class the `MAX_DETECTIONS` with the largest scores count.
      num_classes: C.
      score_threshold: Smallest score of the detections in `cells`.
    """
    ranked, ranks, _ = _by_score(detections)
    ranges = np.array(list(AREA_RANGES.values()))
    outside, detection_outside = (
        (values < ranges[:, :1]) | (values > ranges[:, 1:]) for values in (area(objects.boxes), area(ranked.boxes))
    )
    ignored = outside | ~objects.counted  # [ranges, G]
    overlaps = pairwise_iou(ranked.boxes, objects.boxes)
    same_class = ranked.class_ids[:, np.newaxis] == objects.class_ids
    matches = _match(overlaps, same_class, objects, ranked.boxes, ignored)  # [D, ranges, thresholds]

    matched = matches >= 0
    range_ids = np.arange(len(ranges))[:, np.newaxis]
    matched_ignored = matched & (ignored[range_ids, matches] if len(objects.boxes) else False)
    correct = (matched & ~matched_ignored).reshape(-1, NUM_COCO_CURVES)
    counted = ~np.where(matched, matched_ignored, detection_outside.T[..., np.newaxis]).reshape(-1, NUM_COCO_CURVES)

    taken = np.where(correct[:, 0], matches[:, 0, 0], -1)
    is_taken = np.isin(np.arange(len(objects.boxes)), taken)
    wrong = np.flatnonzero(counted[:, 0] & ~correct[:, 0])
    types, targets = _error_types(overlaps[wrong], same_class[wrong], objects.counted, is_taken)
    # Of the errors with the same object the one with the largest score would be correct.
    fixable = np.flatnonzero(targets >= 0)
    winners = fixable[np.unique(targets[fixable], return_index=True)[1]]
    missed = objects.counted & ~is_taken
    missed[targets[fixable]] = False

    fixed_correct = np.repeat(correct[:, :1], MISSED, axis=1)
    fixed_counted = np.repeat(counted[:, :1], MISSED, axis=1)
    fixed_counted[wrong, types] = False
    relocated = winners[types[winners] == LOCALISATION]
    fixed_correct[wrong[relocated], LOCALISATION] = fixed_counted[wrong[relocated], LOCALISATION] = True
    renamed = winners[types[winners] == CLASSIFICATION]
    added = np.uint64(1 << (NUM_COCO_CURVES + CLASSIFICATION))

    return ImageOutcomes(
        class_ids=np.concatenate([ranked.class_ids, objects.class_ids[targets[renamed]]]).astype(np.int64),
        scores=np.concatenate([ranked.scores, ranked.scores[wrong[renamed]]]).astype(np.float32),
        correct=np.append(_pack(correct, fixed_correct), np.full(len(renamed), added)),
        counted=np.append(_pack(counted, fixed_counted), np.full(len(renamed), added)),
        ranks=np.append(ranks, np.full(len(renamed), -1)),
        object_ids=objects.class_ids[objects.counted].astype(np.int64),
        object_ranges=~outside.T[objects.counted],
        cells=_cells(objects, ranked, overlaps, taken, wrong, score_threshold, num_classes),
        errors=np.concatenate(
            [
                np.stack([ranked.class_ids[wrong], types], axis=-1),
                np.stack([objects.class_ids[missed], np.full(missed.sum(), MISSED)], axis=-1),
            ]
        ).astype(np.int64),
    )


class BoxErrors(NamedTuple):
    """How the boxes of one image compare at IoU 0.5.

    Attributes:
      types: int64 [D], of every detection: its type of error, `CORRECT`, or `IGNORED` if it belongs to an object that
        need not be detected.
      detected: bool [G], objects with a correct detection.
      missed: bool [G], objects that have to be detected and that no detection refers to, not even one with an error.
      targets: int64 [D], the object to which a detection with an error refers; -1 for none.
    """

    types: np.ndarray
    detected: np.ndarray
    missed: np.ndarray
    targets: np.ndarray


def box_errors(objects: Objects, detections: Detections) -> BoxErrors:
    """Compares every detection with the objects, as `compare` does in the range of all areas."""
    ranked, _, order = _by_score(detections)
    overlaps = pairwise_iou(ranked.boxes, objects.boxes)
    same_class = ranked.class_ids[:, np.newaxis] == objects.class_ids
    matches = _match(overlaps, same_class, objects, ranked.boxes, ~objects.counted[np.newaxis])[:, 0, 0]
    is_correct = (matches >= 0) & (objects.counted[matches] if len(objects.boxes) else False)
    detected = np.isin(np.arange(len(objects.boxes)), matches[is_correct])
    wrong = np.flatnonzero(matches < 0)
    wrong_types, wrong_targets = _error_types(overlaps[wrong], same_class[wrong], objects.counted, detected)
    missed = objects.counted & ~detected
    missed[wrong_targets[wrong_targets >= 0]] = False
    types, targets = np.full(len(detections.scores), IGNORED), np.full(len(detections.scores), -1)
    types[order] = np.where(is_correct, CORRECT, IGNORED)
    types[order[wrong]], targets[order[wrong]] = wrong_types, wrong_targets
    return BoxErrors(types, detected, missed, targets)


def _by_score(detections: Detections) -> tuple[Detections, np.ndarray, np.ndarray]:
    """Sorts the first detections of every class by falling score; equal ones keep their order.

    Returns:
      The n sorted detections; int64 [n] each: their ranks in their class, from 0, and their indices.
    """
    order = np.argsort(-detections.scores, kind="stable")
    ids = detections.class_ids[order]
    by_class = np.argsort(ids, kind="stable")
    ranks = np.empty(len(ids), np.int64)
    ranks[by_class] = np.arange(len(ids)) - np.searchsorted(ids[by_class], ids[by_class])
    kept = ranks < MAX_DETECTIONS
    order = order[kept]
    return Detections(*(values[order] for values in detections)), ranks[kept], order


def _match(
    overlaps: np.ndarray, same_class: np.ndarray, objects: Objects, boxes: np.ndarray, ignored: np.ndarray
) -> np.ndarray:
    """Returns the object of every detection, in every range of areas and at every threshold.

    Args:
      overlaps: float64 [D, G], IoU; detections by falling score.
      same_class: bool [D, G].
      objects: The ground truth.
      boxes: float64 [D, 4], of the detections.
      ignored: bool [ranges, G], objects that need not be detected.

    Returns:
      int64 [D, ranges, thresholds], indices of objects; -1 for none.
    """
    matches = np.full((len(boxes), len(ignored), len(IOU_THRESHOLDS)), -1)
    if objects.crowd.any():
        covered = pairwise_coverage(boxes, objects.boxes[objects.crowd])
        overlaps = overlaps.copy()
        overlaps[:, objects.crowd] = covered
    candidates = same_class & (overlaps >= IOU_THRESHOLDS[0])
    taken = np.zeros((*matches.shape[1:], len(objects.boxes)), bool)
    range_ids, threshold_ids = np.ogrid[: matches.shape[1], : matches.shape[2]]
    for index in np.flatnonzero(candidates.any(axis=1)):
        # Backwards: of equal overlaps the last one wins.
        columns = np.flatnonzero(candidates[index])[::-1]
        overlap = overlaps[index, columns]
        free = (~taken[:, :, columns] | objects.crowd[columns]) & (overlap >= IOU_THRESHOLDS[:, np.newaxis])
        rank = np.where(free, overlap + 2.0 * ~ignored[:, np.newaxis, columns], 0.0)
        best = rank.argmax(axis=-1)
        chosen = columns[best]
        is_match = free[range_ids, threshold_ids, best]
        matches[index] = np.where(is_match, chosen, -1)
        taken[range_ids, threshold_ids, chosen] |= is_match
    return matches


def _error_types(
    overlaps: np.ndarray, same_class: np.ndarray, counted: np.ndarray, is_taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the type of every false positive, and the object that it would detect without the error.

    The first type that applies, as in the authors' implementation: localisation (the class is correct, the IoU between
    0.1 and 0.5), classification (IoU of 0.5 with an object of another class), duplicate, background (IoU up to 0.1 with
    all objects), both.

    Args:
      overlaps: float64 [F, G], IoU of the false positives.
      same_class: bool [F, G].
      counted: bool [G], objects that have to be detected; others are not compared.
      is_taken: bool [G], objects that are detected.

    Returns:
      int64 [F] each; -1 where the error has no object, or one that is detected.
    """
    if not len(counted):
        return np.full(len(overlaps), BACKGROUND), np.full(len(overlaps), -1)
    overlaps = overlaps * counted
    same, other = overlaps * same_class, overlaps * ~same_class
    best_same, best_other = same.max(axis=1), other.max(axis=1)
    threshold = IOU_THRESHOLDS[0]
    is_localisation = (best_same >= _BACKGROUND_IOU) & (best_same <= threshold)
    is_classification = ~is_localisation & (best_other >= threshold)
    types = np.select(
        [
            is_localisation,
            is_classification,
            (same * is_taken).max(axis=1) >= threshold,
            overlaps.max(axis=1) <= _BACKGROUND_IOU,
        ],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    targets = np.where(is_localisation, same.argmax(axis=1), np.where(is_classification, other.argmax(axis=1), -1))
    return types, np.where((targets >= 0) & ~is_taken[targets], targets, -1)


def _cells(
    objects: Objects,
    ranked: Detections,
    overlaps: np.ndarray,
    taken: np.ndarray,
    wrong: np.ndarray,
    score_threshold: float,
    num_classes: int,
) -> np.ndarray:
    """Returns the cells of the confusion matrix at IoU 0.5: true and predicted class, int64 [m, 2].

    Correct detections take their objects first; then each false positive takes the object of another class with the
    largest IoU that is left. The rest is background.
    """
    scored = ranked.scores >= score_threshold
    taken = np.where(scored, taken, -1)
    open_objects = objects.counted & ~np.isin(np.arange(len(objects.boxes)), taken)
    true_ids = np.full(len(ranked.scores), num_classes)
    true_ids[taken >= 0] = objects.class_ids[taken[taken >= 0]]
    wrong = wrong[scored[wrong]]
    if open_objects.any():
        for index in wrong[(overlaps[wrong] * open_objects).max(axis=1) >= IOU_THRESHOLDS[0]]:
            values = overlaps[index] * open_objects
            best = values.argmax()
            if values[best] >= IOU_THRESHOLDS[0]:
                true_ids[index] = objects.class_ids[best]
                open_objects[best] = False
    rows = np.concatenate([np.flatnonzero(taken >= 0), wrong])
    left = objects.class_ids[open_objects]
    return np.concatenate(
        [
            np.stack([true_ids[rows], ranked.class_ids[rows]], axis=-1),
            np.stack([left, np.full(len(left), num_classes)], axis=-1),
        ]
    ).astype(np.int64)


def _pack(*flags: np.ndarray) -> np.ndarray:
    """Packs bool [n, s] arrays, side by side, as bits: uint64 [n]."""
    joined = np.concatenate(flags, axis=1)
    return np.asarray(
        (joined.astype(np.uint64) << np.arange(joined.shape[1], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    )
