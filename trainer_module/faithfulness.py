"""Faithfulness metrics: whether the predictions of a model depend on what its heat maps show.

One entry of `METRICS` is all that a metric needs: it is then measured, bounded by `grad_cam.thresholds`, shown and
reported. Importing this module imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trainer_module.evaluation.spec import MetricSpec
from trainer_module.tasks import Explanation

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer_module.grad_cam import ExplainedBatch

_BLURRED_SIDE = 8


class FaithfulnessMetric(MetricSpec):
    """A metric of explanations. Its value is the mean over a sample of explained predictions.

    `compute` maps a `Probe` of N explained images to float [N]; NaN if the metric is undefined for an image.

    Attributes:
      needs_regions: Whether the ground truth must contain regions of the image, as masks do.
    """

    needs_regions: bool = False


@dataclass(frozen=True)
class Probe:
    """N explained images, whose pixels a metric changes to compute their scores again.

    Attributes:
      images: float32 [N, h, w, c], range [0, 255].
      heatmap: float32 [N, h, w], range [0, 1].
      true_regions: bool [N, h, w], ground truth of what is explained; None if the task has no regions.
      score: Images as above → probability of the explained class, float32 [N].
      steps: Number of equal parts in which pixels are deleted or inserted.
    """

    images: tf.Tensor
    heatmap: tf.Tensor
    true_regions: tf.Tensor | None
    score: Callable[[tf.Tensor], tf.Tensor]
    steps: int

    @cached_property
    def image_score(self) -> tf.Tensor:
        """The score of the unchanged images."""
        return self.score(self.images)

    @cached_property
    def highlighted_score(self) -> tf.Tensor:
        """The score of the products of image and heat map, pixel by pixel."""
        return self.score(self.images * self.heatmap[..., None])

    def area_under_curve(self, hottest: tf.Tensor, rest: tf.Tensor) -> tf.Tensor:
        """Integrates the score while the hottest pixels come from one image, and the rest from another.

        Of equally hot pixels, those above and to the left come first.

        Args:
          hottest: Images that the hottest pixels are taken from.
          rest: Images that all other pixels are taken from.

        Returns:
          float32 [N], by the trapezoidal rule over `steps` parts.
        """
        import tensorflow as tf

        height, width = self.images.shape[1:3]
        order = tf.argsort(tf.reshape(self.heatmap, [-1, height * width]), direction="DESCENDING", stable=True)
        ranks = tf.reshape(tf.argsort(order), [-1, height, width, 1])
        counts = tf.cast(tf.round(tf.linspace(0.0, float(height * width), self.steps + 1)), tf.int32)
        curve = tf.map_fn(
            lambda count: self.score(tf.where(ranks < count, hottest, rest)),
            counts,
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )
        return tf.reduce_mean((curve[1:] + curve[:-1]) / 2.0, axis=0)


def _deletion_auc(probe: Probe) -> tf.Tensor:
    """Replaces the hottest pixels by the mean colour of the image (Petsiuk et al., section 3.2)."""
    import tensorflow as tf

    means = tf.broadcast_to(tf.reduce_mean(probe.images, axis=[1, 2], keepdims=True), tf.shape(probe.images))
    return probe.area_under_curve(means, probe.images)


def _insertion_auc(probe: Probe) -> tf.Tensor:
    """Inserts the hottest pixels into the image, blurred to 8 by 8 means (Petsiuk et al., section 3.2)."""
    import tensorflow as tf

    small = tf.image.resize(probe.images, [_BLURRED_SIDE] * 2, method="area")
    blurred = tf.image.resize(small, probe.images.shape[1:3], method="bilinear")
    return probe.area_under_curve(probe.images, blurred)


def _average_drop(probe: Probe) -> tf.Tensor:
    """Computes the relative loss of probability, 0 where there is none (Chattopadhay et al., section 4.1)."""
    import tensorflow as tf

    return tf.math.divide_no_nan(tf.nn.relu(probe.image_score - probe.highlighted_score), probe.image_score)


def _increase_in_confidence(probe: Probe) -> tf.Tensor:
    """Returns 1 where the probability increases, otherwise 0 (Chattopadhay et al., section 4.1)."""
    import tensorflow as tf

    return tf.cast(probe.highlighted_score > probe.image_score, tf.float32)


def _pointing_game(probe: Probe) -> tf.Tensor:
    """Returns 1 where the hottest pixel is inside the true region, otherwise 0 (Zhang et al., without a margin)."""
    import tensorflow as tf

    heat = tf.reshape(probe.heatmap, [tf.shape(probe.heatmap)[0], -1])
    inside = tf.reshape(probe.true_regions, tf.shape(heat))
    hits = tf.gather(inside, tf.argmax(heat, axis=1), axis=1, batch_dims=1) & tf.reduce_any(heat > 0.0, axis=1)
    return tf.where(tf.reduce_any(inside, axis=1), tf.cast(hits, tf.float32), float("nan"))


def _energy_inside(probe: Probe) -> tf.Tensor:
    """Computes the share of the heat inside the true region, 0 where nothing is hot (Wang et al., section 4.3)."""
    import tensorflow as tf

    heat, inside = tf.cast(probe.heatmap, tf.float64), tf.cast(probe.true_regions, tf.float64)
    share = tf.math.divide_no_nan(tf.reduce_sum(heat * inside, axis=[1, 2]), tf.reduce_sum(heat, axis=[1, 2]))
    return tf.where(tf.reduce_any(probe.true_regions, axis=[1, 2]), share, float("nan"))


# References: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421; Chattopadhay et al. 2018,
# https://arxiv.org/abs/1710.11063; Zhang et al. 2016, https://arxiv.org/abs/1608.00507; Wang et al. 2020,
# https://arxiv.org/abs/1910.01279.
METRICS = (
    FaithfulnessMetric(
        name="deletion_auc",
        description="Mean probability of the class while the hottest pixels are deleted.",
        direction="lower_is_better",
        undefined_when="the sample has no explained prediction",
        compute=_deletion_auc,
    ),
    FaithfulnessMetric(
        name="insertion_auc",
        description="Mean probability of the class while the hottest pixels are inserted into a blurred image.",
        undefined_when="the sample has no explained prediction",
        compute=_insertion_auc,
    ),
    FaithfulnessMetric(
        name="average_drop",
        description="Share of the probability that is lost if only the highlighted pixels remain.",
        direction="lower_is_better",
        undefined_when="the sample has no explained prediction",
        compute=_average_drop,
    ),
    FaithfulnessMetric(
        name="increase_in_confidence",
        description="Share of the predictions with a higher probability if only the highlighted pixels remain.",
        undefined_when="the sample has no explained prediction",
        compute=_increase_in_confidence,
    ),
    FaithfulnessMetric(
        name="pointing_game",
        description="Share of the heat maps whose hottest pixel is inside the true region of the class, or of the "
        "explained object.",
        undefined_when="nothing that the sample explains is in the ground truth of its image",
        needs_regions=True,
        compute=_pointing_game,
    ),
    FaithfulnessMetric(
        name="energy_inside",
        description="Share of the heat that is inside the true region of the class, or of the explained object.",
        undefined_when="nothing that the sample explains is in the ground truth of its image",
        needs_regions=True,
        compute=_energy_inside,
    ),
)


def metrics_of(explanation: Explanation) -> tuple[FaithfulnessMetric, ...]:
    """The metrics that can be measured for a task."""
    return tuple(metric for metric in METRICS if explanation.has_regions or not metric.needs_regions)


def measurer(
    model: keras.Model, explanation: Explanation, steps: int
) -> Callable[[tf.Tensor, ExplainedBatch, tf.Tensor | None], dict[str, tf.Tensor]]:
    """Builds the function that measures batches, once per model; it predicts every image 2 * steps + 4 times.

    Args:
      model: Maps pixels [N, h, w, c], range [0, 255], to the outputs of the task's head.
      explanation: Record of the task; `score` is read.
      steps: Number of equal parts in which pixels are deleted and inserted.

    Returns:
      `measure(images, explained, true_regions) -> values`: the explained images [N, h, w, c]; bool [N, h, w], or None
      if the task has no regions; for every metric of the task float [N].
    """
    import tensorflow as tf

    from trainer_module.fused_normalization import fused
    from trainer_module.grad_cam import as_float32

    metrics: Sequence[FaithfulnessMetric] = metrics_of(explanation)

    @tf.function(reduce_retracing=True, autograph=False)
    def measure(images: tf.Tensor, explained: ExplainedBatch, true_regions: tf.Tensor | None) -> dict[str, tf.Tensor]:
        @tf.function(reduce_retracing=True, autograph=False)
        def score(changed: tf.Tensor) -> tf.Tensor:
            with fused(model):
                outputs = as_float32(model(changed, training=False))
            return explanation.score(outputs, explained.subject)

        probe = Probe(tf.cast(images, tf.float32), explained.heatmap, true_regions, score, steps)
        return {metric.name: metric.compute(probe) for metric in metrics if metric.compute}

    measure_fn: Callable[[tf.Tensor, ExplainedBatch, tf.Tensor | None], dict[str, tf.Tensor]] = measure
    return measure_fn
