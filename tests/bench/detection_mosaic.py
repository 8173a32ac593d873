"""The measurement of `detection.py` with mosaic augmentation: half of the images are composed of parts of four.

python tests/bench/detection_mosaic.py DATA --preset bccd --measure 1/5

All options are those of `detection.py`. Four images of a batch are placed in two rows of two, and a random window
of the size of one image is cut out around the point where they meet, so that objects keep their size. The augmentation
of the task follows.

Reference: Bochkovskiy et al. 2020, https://arxiv.org/abs/2004.10934, section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import detection
import tensorflow as tf

from trainer_module import geometry
from trainer_module.boxes import transforms
from trainer_module.options import TrainerOptions
from trainer_module.tasks import detection as task

_SHARE = 0.5  # of the images
_MARGIN = 0.25  # smallest share of a side between the meeting point and the border


def mosaic(seed: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Composes images of a batch, and their boxes.

    Args:
      seed: int [2].
      images: [N, s, s, c].
      labels: float32 [N, max_objects, 6], see `box_labels`; if more objects remain than fit, the last are dropped.
    """
    num, side, most = tf.shape(images)[0], images.shape[1], labels.shape[1]
    order = tf.range(num)
    quarters = [tf.roll(order, shift, axis=0) for shift in range(4)]
    parts = [tf.gather(tf.cast(images, tf.float32), index) for index in quarters]
    canvas = tf.concat([tf.concat(parts[:2], axis=2), tf.concat(parts[2:], axis=2)], axis=1)
    uniform = tf.random.stateless_uniform([num, 3], tf.cast(seed, tf.int64) + 7919)
    # The window begins left of the meeting point, which is at (side, side).
    starts = tf.cast((_MARGIN + (1.0 - 2.0 * _MARGIN) * uniform[:, :2]) * side, tf.int32)
    windows = tf.map_fn(
        lambda pair: tf.slice(pair[0], [pair[1][0], pair[1][1], 0], [side, side, images.shape[3]]),
        (canvas, starts),
        fn_output_signature=tf.float32,
    )
    shifts = tf.cast(starts, tf.float32) / side
    moved = []
    for index, (row, column) in zip(quarters, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        own = tf.gather(labels, index)
        offset = tf.stack([row - shifts[:, 0], column - shifts[:, 1]] * 2, axis=-1)
        moved.append(tf.concat([own[..., :4] + offset[:, tf.newaxis], own[..., 4:]], axis=-1))
    joined = tf.concat(moved, axis=1)
    visible = transforms.clip_visible(joined[..., :4], (1.0, 1.0))
    clipped = tf.concat([visible.boxes, joined[..., 4:]], axis=-1)
    composed = geometry.keep_visible(clipped, visible.visible)[:, :most]
    is_mosaic = uniform[:, 2] < _SHARE
    return (
        tf.where(is_mosaic[:, tf.newaxis, tf.newaxis, tf.newaxis], windows, tf.cast(images, tf.float32)),
        tf.where(is_mosaic[:, tf.newaxis, tf.newaxis], composed, labels),
    )


def _augment(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    then = _TASK.augment(options)
    return lambda seed, images, labels: then(seed, *mosaic(seed, images, labels))


_TASK = task.TASK

if __name__ == "__main__":
    task.TASK = dataclasses.replace(_TASK, augment=_augment)
    detection.main()
