"""Selects the detections of an image from the predictions of a head: class-wise non-maximum suppression."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Detections(NamedTuple):
    """The detections of N images, best first, padded with zeros to M.

    Attributes:
      boxes: float32 [N, M, 4].
      scores: float32 [N, M].
      class_ids: int32 [N, M], from 0.
      num: int32 [N], the number of detections of each image.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    class_ids: tf.Tensor
    num: tf.Tensor


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    score_threshold: float | tf.Tensor = 0.05,
    iou_threshold: float | tf.Tensor = 0.6,
    max_detections: int = 100,
    max_candidates: int | None = None,
) -> Detections:
    """Keeps the best boxes of every class, and drops those that overlap with a better one of the same class.

    The work is done by one operation, `CombinedNonMaxSuppression`, which ServingValidator allows. A box
    is dropped if its IoU with a better box is *above* the threshold; scores *equal* to the score threshold are dropped,
    and so are scores that are not a number. The order of detections with equal scores is not defined.

    Args:
      boxes: float32 [N, B, 4], the same for all classes, or [N, B, C, 4]. Any units; they are not clipped.
      scores: float32 [N, B, C], range [0, 1].
      score_threshold: Scores up to this are dropped; range [0, 1].
      iou_threshold: Largest IoU of two detections of a class, range [0, 1].
      max_detections: M, over all classes.
      max_candidates: Only the boxes with the largest scores take part: this many per image; None for all. It changes
        the result only if more boxes have scores above the threshold. Choosing them pays for many classes: of 8,400
        boxes with 80 classes, 1,000 candidates take a third of the time, and with 3 classes three times as long.

    Reference: https://www.tensorflow.org/api_docs/python/tf/image/combined_non_max_suppression
    """
    boxes, scores = tf.convert_to_tensor(boxes), tf.convert_to_tensor(scores)
    scores = tf.where(scores > score_threshold, scores, -1.0)  # also what is not a number
    if max_candidates is not None and (boxes.shape[1] is None or boxes.shape[1] > max_candidates):
        best = tf.reduce_max(scores, axis=-1)
        number = tf.minimum(max_candidates, tf.shape(best)[1])
        candidates = tf.math.top_k(best, number, sorted=False).indices
        boxes, scores = (tf.gather(values, candidates, batch_dims=1) for values in (boxes, scores))
    if boxes.shape.rank == 3:
        boxes = boxes[:, :, tf.newaxis]
    selected = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class=max_detections,
        max_total_size=max_detections,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=False,
    )
    return Detections(
        tf.ensure_shape(selected.nmsed_boxes, [None, max_detections, 4]),
        tf.ensure_shape(selected.nmsed_scores, [None, max_detections]),
        tf.cast(tf.ensure_shape(selected.nmsed_classes, [None, max_detections]), tf.int32),
        selected.valid_detections,
    )
