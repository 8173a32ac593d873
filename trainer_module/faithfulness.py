"""Whether a model heeds what its heat maps show: figures of explanations, none of which needs a person to look."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import grad_cam
from trainer_module.fused_normalization import fused

_BLURRED_SIDE = 8


class Faithfulness(NamedTuple):
    """Figures of a batch, each float32 [N].

    Attributes:
      deletion_auc: Area under the class's probability while pixels are deleted, the hottest first; low is good.
      insertion_auc: The same while they are inserted into a blurred picture; high is good.
      average_drop: Part of the probability that is lost where only what the map shows is left, 0 where none is; low is
        good.
      increase_in_confidence: 1 where the probability is higher then, else 0; high is good.
    """

    deletion_auc: tf.Tensor
    insertion_auc: tf.Tensor
    average_drop: tf.Tensor
    increase_in_confidence: tf.Tensor


def measurer(model: keras.Model, steps: int) -> Callable[[tf.Tensor, grad_cam.Explanation], Faithfulness]:
    """Builds, once a model, the function that measures batches; it predicts every picture 2 * steps + 4 times.

    Deleted pixels take the mean colour of their picture; pictures are blurred to 8 by 8 means. Where several pixels are
    equally hot, those above and to the left come first. The explanation as a picture is the product of picture and map,
    pixel by pixel. With masks the probability is the mean over the explained region.

    Args:
      model: Maps pixels [N, h, w, c], range [0, 255], to logits.
      steps: In how many equal parts pixels are deleted and inserted.

    Returns:
      `measure(images, explanation) -> Faithfulness`, images being [N, h, w, c] as they were explained.

    Reference: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, section 3.2 (deletion and insertion); Chattopadhay
    et al. 2018, https://arxiv.org/abs/1710.11063, section 4.1 (average drop and increase in confidence).
    """

    @tf.function(reduce_retracing=True)
    def measure(images: tf.Tensor, explanation: grad_cam.Explanation) -> Faithfulness:
        images = tf.cast(images, tf.float32)

        def score(shown: tf.Tensor) -> tf.Tensor:
            with fused(model):
                logits = tf.cast(model(shown, training=False), tf.float32)
            return grad_cam.scores(logits, explanation.class_id, explanation.region)

        num_pixels = images.shape[1] * images.shape[2]
        order = tf.argsort(tf.reshape(explanation.heatmap, [-1, num_pixels]), direction="DESCENDING", stable=True)
        ranks = tf.reshape(tf.argsort(order), [-1, *images.shape[1:3], 1])
        parts = tf.cast(tf.round(tf.linspace(0.0, float(num_pixels), steps + 1)), tf.int32)
        means = tf.broadcast_to(tf.reduce_mean(images, axis=[1, 2], keepdims=True), tf.shape(images))
        small = tf.image.resize(images, [_BLURRED_SIDE] * 2, method="area")
        blurred = tf.image.resize(small, images.shape[1:3], method="bilinear")

        def area(hot: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
            curve = tf.map_fn(
                lambda part: score(tf.where(ranks < part, hot, others)),
                parts,
                fn_output_signature=tf.float32,
                parallel_iterations=1,
            )
            return tf.reduce_mean((curve[1:] + curve[:-1]) / 2.0, axis=0)

        alone = score(images * explanation.heatmap[..., tf.newaxis])
        whole = score(images)
        return Faithfulness(
            deletion_auc=area(means, images),
            insertion_auc=area(images, blurred),
            average_drop=tf.math.divide_no_nan(tf.nn.relu(whole - alone), whole),
            increase_in_confidence=tf.cast(alone > whole, tf.float32),
        )

    measure_fn: Callable[[tf.Tensor, grad_cam.Explanation], Faithfulness] = measure
    return measure_fn


def pointing_game(heatmaps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Whether the hottest pixel lies on the thing.

    Args:
      heatmaps: float32 [N, h, w].
      inside: bool [N, h, w], where the thing is.

    Returns:
      float64 [N]: 1, or 0, as it is where nothing is hot; NaN where there is no such thing.

    Reference: Zhang et al. 2016, https://arxiv.org/abs/1608.00507, section 4.2, without a margin.
    """
    heat, place = heatmaps.reshape(len(heatmaps), -1), inside.reshape(len(inside), -1)
    hottest = np.take_along_axis(place, heat.argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
    return np.where(place.any(axis=1), (hottest & (heat.max(axis=1) > 0)).astype(float), np.nan)


def energy_inside(heatmaps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The part of the heat that lies on the thing.

    Args:
      heatmaps: float32 [N, h, w].
      inside: bool [N, h, w], where the thing is.

    Returns:
      float64 [N], range [0, 1], 0 where nothing is hot; NaN where there is no such thing.

    Reference: Wang et al. 2020, https://arxiv.org/abs/1910.01279, section 4.3 (energy-based pointing game).
    """
    total = heatmaps.sum(axis=(1, 2), dtype=float)
    within = (heatmaps * inside).sum(axis=(1, 2), dtype=float)
    shares = np.divide(within, total, out=np.zeros_like(total), where=total > 0)
    return np.where(inside.any(axis=(1, 2)), shares, np.nan)
