"""Encodings of boxes that a detection head predicts: distances to the sides, or deltas to an anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer_module.boxes.arrays import corners

# A predicted size is at most this many times that of the anchor, so that the exponential of a bad prediction does not
# overflow (Detectron's bbox_transform_clip).
_LARGEST_RATIO = 1000.0 / 16.0
_SMALLEST_SIDE = 1e-6  # of boxes that are encoded: the logarithm of 0 is not finite


def encode_distances(boxes: tf.Tensor, locations: tf.Tensor, strides: Any = 1.0) -> tf.Tensor:
    """Encodes boxes as distances from a location inside them to their sides.

    Args:
      boxes: float32 [..., 4].
      locations: float32 [..., 2], (y, x) in the same units; both are broadcast.
      strides: float32 [...], the unit of the distances, usually the stride of the location's feature map.

    Returns:
      float32 [..., 4], (left, top, right, bottom); some are negative if the location is outside the box.

    Reference: Tian et al. 2019 (FCOS), https://arxiv.org/abs/1904.01355, equation 1.
    """
    ymin, xmin, ymax, xmax = corners(boxes)
    y, x = locations[..., 0], locations[..., 1]
    distances = tf.stack([x - xmin, y - ymin, xmax - x, ymax - y], axis=-1)
    return distances / tf.convert_to_tensor(strides, distances.dtype)[..., tf.newaxis]


def decode_distances(distances: tf.Tensor, locations: tf.Tensor, strides: Any = 1.0) -> tf.Tensor:
    """Inverts `encode_distances`: float32 [..., 4] → boxes, float32 [..., 4].

    The boxes are not empty if the sums of opposite distances are positive.
    """
    scaled = distances * tf.convert_to_tensor(strides, distances.dtype)[..., tf.newaxis]
    left, top, right, bottom = (scaled[..., index] for index in range(4))
    y, x = locations[..., 0], locations[..., 1]
    return tf.stack([y - top, x - left, y + bottom, x + right], axis=-1)


def centerness(distances: tf.Tensor) -> tf.Tensor:
    """Computes how central a location lies in its box, the target of FCOS's second classifier.

    Args:
      distances: float32 [..., 4], from `encode_distances`.

    Returns:
      float32 [...], range [0, 1]: 1 in the centre, 0 on the sides and outside.

    Reference: Tian et al. 2019 (FCOS), https://arxiv.org/abs/1904.01355, equation 3.
    """
    left, top, right, bottom = (tf.maximum(distances[..., index], 0.0) for index in range(4))
    horizontal = tf.math.divide_no_nan(tf.minimum(left, right), tf.maximum(left, right))
    vertical = tf.math.divide_no_nan(tf.minimum(top, bottom), tf.maximum(top, bottom))
    return tf.sqrt(horizontal * vertical)


def encode_deltas(boxes: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Encodes boxes relative to anchors: shift of the centre in units of the anchor's sides, logarithm of the sides.

    Args:
      boxes: float32 [..., 4].
      anchors: float32 [..., 4], not empty, in the same units; both are broadcast.
      weights: Factors of the four results; the TF Object Detection API uses (10, 10, 5, 5).

    Returns:
      float32 [..., 4], (y, x, height, width); finite also for empty boxes.

    Reference: Ren et al. 2015 (Faster R-CNN), https://arxiv.org/abs/1506.01497, equation 2.
    """
    y, x, height, width = _center_and_sides(boxes)
    anchor_y, anchor_x, anchor_height, anchor_width = _center_and_sides(anchors)
    deltas = [
        (y - anchor_y) / anchor_height,
        (x - anchor_x) / anchor_width,
        tf.math.log(tf.maximum(height, _SMALLEST_SIDE) / anchor_height),
        tf.math.log(tf.maximum(width, _SMALLEST_SIDE) / anchor_width),
    ]
    return tf.stack(deltas, axis=-1) * tf.constant(weights)


def decode_deltas(deltas: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Inverts `encode_deltas`: float32 [..., 4] → boxes, float32 [..., 4].

    Sides are at most 62.5 times those of the anchor.
    """
    delta_y, delta_x, delta_height, delta_width = (deltas[..., index] / weight for index, weight in enumerate(weights))
    anchor_y, anchor_x, anchor_height, anchor_width = _center_and_sides(anchors)
    y, x = anchor_y + delta_y * anchor_height, anchor_x + delta_x * anchor_width
    limit = math.log(_LARGEST_RATIO)
    height = anchor_height * tf.exp(tf.minimum(delta_height, limit))
    width = anchor_width * tf.exp(tf.minimum(delta_width, limit))
    return tf.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=-1)


def _center_and_sides(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    ymin, xmin, ymax, xmax = corners(boxes)
    return (ymin + ymax) / 2, (xmin + xmax) / 2, ymax - ymin, xmax - xmin
