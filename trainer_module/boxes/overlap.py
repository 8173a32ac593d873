"""Areas and overlaps of boxes: intersection over union, its generalised form, and the loss that follows from it.

All functions compute on NumPy arrays and on tensors (`trainer_module.boxes.arrays`).
"""

from __future__ import annotations

import functools

from trainer_module.boxes.arrays import Array, corners, divide, library


def area(boxes: Array) -> Array:
    """Computes areas.

    Args:
      boxes: float [..., 4].

    Returns:
      float [...], in square units of the boxes; 0 for empty boxes, also for those with swapped corners.
    """
    ymin, xmin, ymax, xmax = corners(boxes)
    maximum = library(boxes).maximum
    return maximum(ymax - ymin, 0.0) * maximum(xmax - xmin, 0.0)


def intersection(boxes: Array, others: Array) -> Array:
    """Computes the common area of boxes, element by element: float [..., 4] each, broadcast → float [...]."""
    ymin, xmin, ymax, xmax = corners(boxes)
    other_ymin, other_xmin, other_ymax, other_xmax = corners(others)
    lib = library(boxes, others)
    maximum, minimum = lib.maximum, lib.minimum
    height = minimum(ymax, other_ymax) - maximum(ymin, other_ymin)
    width = minimum(xmax, other_xmax) - maximum(xmin, other_xmin)
    return maximum(height, 0.0) * maximum(width, 0.0)


def iou(boxes: Array, others: Array) -> Array:
    """Computes the intersection over union (IoU) of boxes, element by element.

    Args:
      boxes: float [..., 4].
      others: float [..., 4], in the same units; both are broadcast.

    Returns:
      float [...], range [0, 1]; 0 if either box is empty.
    """
    common = intersection(boxes, others)
    return divide(common, area(boxes) + area(others) - common)


def coverage(boxes: Array, regions: Array) -> Array:
    """Computes the share of each box that a region covers, element by element.

    It replaces IoU where a region contains any number of objects, as COCO's crowd regions do.

    Args:
      boxes: float [..., 4].
      regions: float [..., 4], in the same units; both are broadcast.

    Returns:
      float [...], range [0, 1]; 0 if the box is empty.
    """
    return divide(intersection(boxes, regions), area(boxes))


def generalized_iou(boxes: Array, others: Array) -> Array:
    """Computes the generalised IoU of boxes, element by element.

    It is the IoU minus the share of the smallest enclosing box that neither box covers. It falls with the distance of
    boxes that do not intersect, for which IoU is 0.

    Args:
      boxes: float [..., 4].
      others: float [..., 4], in the same units; both are broadcast.

    Returns:
      float [...], range [-1, 1]; 0 if the enclosing box is empty.

    Reference: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630, algorithm 1.
    """
    ymin, xmin, ymax, xmax = corners(boxes)
    other_ymin, other_xmin, other_ymax, other_xmax = corners(others)
    lib = library(boxes, others)
    common = intersection(boxes, others)
    union = area(boxes) + area(others) - common
    # All four corners count, so that the gradient turns a box with swapped corners into a valid one.
    ys, xs = (ymin, ymax, other_ymin, other_ymax), (xmin, xmax, other_xmin, other_xmax)
    height = functools.reduce(lib.maximum, ys) - functools.reduce(lib.minimum, ys)
    width = functools.reduce(lib.maximum, xs) - functools.reduce(lib.minimum, xs)
    hull = height * width
    return divide(common, union) - divide(hull - union, hull)


def giou_loss(boxes: Array, predicted: Array) -> Array:
    """Computes the GIoU loss of predicted boxes, element by element.

    Values and gradients are finite for all finite boxes, also empty ones.

    Args:
      boxes: float [..., 4], ground truth.
      predicted: float [..., 4], in the same units; both are broadcast.

    Returns:
      float [...], range [0, 2]; 0 for equal boxes that are not empty.

    Reference: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630, algorithm 2.
    """
    return 1.0 - generalized_iou(boxes, predicted)


def pairwise_iou(boxes: Array, others: Array) -> Array:
    """Computes the IoU of all pairs: float [..., N, 4] and [..., M, 4] → float [..., N, M], as `iou`."""
    return iou(*_pairs(boxes, others))


def pairwise_coverage(boxes: Array, regions: Array) -> Array:
    """Computes the coverage of all pairs: float [..., N, 4] and [..., M, 4] → float [..., N, M], as `coverage`."""
    return coverage(*_pairs(boxes, regions))


def pairwise_generalized_iou(boxes: Array, others: Array) -> Array:
    """Computes the GIoU of all pairs: float [..., N, 4] and [..., M, 4] → float [..., N, M], as `generalized_iou`."""
    return generalized_iou(*_pairs(boxes, others))


def _pairs(boxes: Array, others: Array) -> tuple[Array, Array]:
    return boxes[..., :, None, :], others[..., None, :, :]
