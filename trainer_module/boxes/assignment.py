"""Assigns ground truth to the anchors or locations of a head: by adaptive training sample selection, or by IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer_module.boxes.arrays import corners
from trainer_module.boxes.overlap import iou, pairwise_iou

BACKGROUND = -1  # an anchor without an object
IGNORED = -2  # an anchor that is neither an object nor background


class Assignment(NamedTuple):
    """Targets of each anchor.

    Attributes:
      indices: int32 [..., L], index of the box in [0, M), `BACKGROUND` or `IGNORED`.
      overlaps: float32 [..., L], IoU of the anchor with its box; 0 without one.
    """

    indices: tf.Tensor
    overlaps: tf.Tensor


def assign(
    boxes: tf.Tensor,
    valid: tf.Tensor,
    anchors: tf.Tensor,
    num_anchors: Sequence[int],
    num_candidates: int = 9,
    ignored: tf.Tensor | None = None,
) -> Assignment:
    """Assigns boxes to anchors by ATSS.

    The candidates of a box are the anchors of each level whose centres are nearest to its own. Those become positive
    whose IoU with the box is at least the mean plus the standard deviation of the candidates' IoU, and whose centres
    are inside the box. An anchor of several boxes takes the one with the largest IoU, and of equal ones the first. A
    box without any anchor centre inside it, smaller than a stride, has no positive anchor.

    It has no trainable inputs and no gradient. It works in `tf.data` (one image, or a batch) and inside a loss.

    Args:
      boxes: float32 [M, 4] or [N, M, 4], padded; in units of the anchors.
      valid: bool [M] or [N, M], false for padding and for boxes that are not to be learned.
      anchors: float32 [L, 4], all levels in sequence: `grids.anchors` or `grids.square_anchors`.
      num_anchors: Number of anchors of each level; their sum is L.
      num_candidates: Candidates per box and level; for several anchors per location, multiply it by their number.
      ignored: bool, as `valid`: boxes, such as crowd regions, in which anchors that are not positive are `IGNORED`.

    Raises:
      ValueError: If the numbers of anchors do not add up.

    Reference: Zhang et al. 2020, https://arxiv.org/abs/1912.02424, algorithm 1; the standard deviation is that of a
    sample, as in the authors' implementation.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    if sum(num_anchors) != anchors.shape[0]:
        raise ValueError(f"{anchors.shape[0]} anchors are not the sum of the levels {tuple(num_anchors)}")
    if boxes.shape.rank == 2:
        batch_ignored = None if ignored is None else ignored[tf.newaxis]
        batch = assign(boxes[tf.newaxis], valid[tf.newaxis], anchors, num_anchors, num_candidates, batch_ignored)
        return Assignment(batch.indices[0], batch.overlaps[0])

    num_images, num_boxes = tf.shape(boxes)[0], tf.shape(boxes)[1]
    candidates = _nearest(_centers(boxes), _centers(anchors), num_anchors, num_candidates)
    candidate_anchors = tf.gather(anchors, candidates)
    overlaps = iou(boxes[:, :, tf.newaxis], candidate_anchors)
    positive = (
        valid[..., tf.newaxis]
        & (overlaps >= _threshold(overlaps))
        & _inside(_centers(candidate_anchors), boxes[:, :, tf.newaxis])
    )

    # First the largest IoU of every anchor, then the first box that has it.
    num_per_image = num_boxes * candidates.shape[-1]
    cells = tf.reshape(candidates, [num_images, num_per_image])
    scores = tf.reshape(tf.where(positive, overlaps, -1.0), [num_images, num_per_image])
    box_ids = tf.repeat(tf.range(num_boxes), candidates.shape[-1])
    positions = tf.stack([tf.repeat(tf.range(num_images), num_per_image), tf.reshape(cells, [-1])], axis=-1)
    shape = [num_images, anchors.shape[0]]
    largest = tf.tensor_scatter_nd_max(tf.fill(shape, -1.0), positions, tf.reshape(scores, [-1]))
    is_largest = (scores >= 0.0) & (scores >= tf.gather(largest, cells, batch_dims=1))
    owners = tf.where(is_largest, box_ids, num_boxes)
    first = tf.tensor_scatter_nd_min(tf.fill(shape, num_boxes), positions, tf.reshape(owners, [-1]))
    indices = tf.where(first < num_boxes, first, BACKGROUND)
    if ignored is not None:
        in_box = _inside(_centers(anchors)[:, tf.newaxis], boxes[:, tf.newaxis])  # [N, L, M]
        in_ignored = tf.reduce_any(in_box & ignored[:, tf.newaxis], axis=-1)
        indices = tf.where((indices == BACKGROUND) & in_ignored, IGNORED, indices)
    return Assignment(indices, tf.maximum(largest, 0.0))


def assign_by_iou(
    boxes: tf.Tensor,
    valid: tf.Tensor,
    anchors: tf.Tensor,
    ignored: tf.Tensor | None = None,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
) -> tf.Tensor:
    """Assigns boxes to anchors by their overlap.

    An anchor takes the box with which it has the largest IoU, and of equal ones the first, from an IoU of
    `positive_iou` on. It is background below `negative_iou`, and ignored between the two. So that every box is learned,
    the anchors that have the largest IoU with a box take it in any case, unless that IoU is 0. If they are those of
    several boxes, they take the one with the largest IoU.

    It has no gradient. It works in `tf.data` (one image, or a batch) and inside a loss.

    Args:
      boxes: float32 [M, 4] or [N, M, 4], padded; in units of the anchors.
      valid: bool [M] or [N, M], false for padding and for boxes that are not to be learned.
      anchors: float32 [A, 4]: `grids.anchors`.
      ignored: bool, as `valid`: boxes, such as crowd regions, in which anchors without an object are `IGNORED`.
      positive_iou: Range [0, 1].
      negative_iou: Range [0, positive_iou].

    Returns:
      int32 [A] or [N, A]: the index of the box in [0, M), `BACKGROUND` or `IGNORED`.

    Reference: Ren et al. 2015 (Faster R-CNN), https://arxiv.org/abs/1506.01497, section 3.1.2; the bounds are those of
    Lin et al. 2017 (RetinaNet), https://arxiv.org/abs/1708.02002, section 4.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    ignored = tf.zeros_like(valid) if ignored is None else ignored
    if boxes.shape.rank == 3:
        # Image by image: a batch at once would need the memory of all pairs, N times.
        return tf.map_fn(
            lambda image: assign_by_iou(image[0], image[1], anchors, image[2], positive_iou, negative_iou),
            (boxes, valid, ignored),
            fn_output_signature=tf.TensorSpec([anchors.shape[0]], tf.int32),
            parallel_iterations=1,
        )
    # Padding in front, so that there is a first box, which no anchor takes.
    boxes = tf.pad(tf.convert_to_tensor(boxes, tf.float32), [[1, 0], [0, 0]])
    valid, ignored = (tf.pad(flags, [[1, 0]]) for flags in (valid, ignored))
    overlaps = tf.where(valid[:, tf.newaxis], pairwise_iou(boxes, anchors), 0.0)
    largest = tf.reduce_max(overlaps, axis=0)
    indices = tf.argmax(overlaps, axis=0, output_type=tf.int32) - 1
    indices = tf.where(largest >= positive_iou, indices, tf.where(largest < negative_iou, BACKGROUND, IGNORED))
    best = tf.reduce_max(overlaps, axis=1, keepdims=True)
    owned = tf.where((overlaps == best) & (overlaps > 0.0), overlaps, 0.0)
    owners = tf.argmax(owned, axis=0, output_type=tf.int32) - 1
    indices = tf.where(tf.reduce_max(owned, axis=0) > 0.0, owners, indices)
    in_ignored = tf.reduce_any(_inside(_centers(anchors), boxes[:, tf.newaxis]) & ignored[:, tf.newaxis], axis=0)
    return tf.where((indices < 0) & in_ignored, IGNORED, indices)


def _nearest(
    centers: tf.Tensor, anchor_centers: tf.Tensor, num_anchors: Sequence[int], num_candidates: int
) -> tf.Tensor:
    """Returns the indices of the anchors nearest to [N, M, 2], of each level, int32 [N, M, K]."""
    nearest, first = [], 0
    for number in num_anchors:
        level = anchor_centers[first : first + number]
        distances = tf.reduce_sum(tf.math.squared_difference(centers[:, :, tf.newaxis], level), axis=-1)
        nearest.append(first + tf.math.top_k(-distances, min(num_candidates, number)).indices)
        first += number
    return tf.concat(nearest, axis=-1)


def _threshold(overlaps: tf.Tensor) -> tf.Tensor:
    """Mean plus sample standard deviation over the last axis, which is kept."""
    mean = tf.reduce_mean(overlaps, axis=-1, keepdims=True)
    sum_of_squares = tf.reduce_sum(tf.math.squared_difference(overlaps, mean), axis=-1, keepdims=True)
    return mean + tf.sqrt(sum_of_squares / max(1, overlaps.shape[-1] - 1))


def _centers(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _inside(points: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Whether points (y, x) [..., 2] are inside boxes [..., 4], not on their sides; broadcast."""
    ymin, xmin, ymax, xmax = corners(boxes)
    y, x = points[..., 0], points[..., 1]
    return (y > ymin) & (y < ymax) & (x > xmin) & (x < xmax)
