"""Grad-CAM, Grad-CAM++, HiResCAM and Seg-Grad-CAM: heat maps of the evidence for a class.

References: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3; Chattopadhay et al. 2018,
https://arxiv.org/abs/1710.11063, section 3; Draelos and Carin 2020, https://arxiv.org/abs/2011.08891, section 3;
Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer_module.feature_maps import find_layer, with_feature_map
from trainer_module.fused_normalization import fused
from trainer_module.tasks import ChosenExplanationMethod, Explanation, ExplanationMethod, Subject

_CHOSEN_BY_TASK = Subject()


class ExplainedBatch(NamedTuple):
    """Heat maps of N images, and what they explain.

    Attributes:
      heatmap: float32 [N, image_size, image_size], range [0, 1]; all zero if nothing is evidence for the class.
      subject: What is explained: classes, regions and positions.
      score: float32 [N], probability of the class, as the task defines it.
      boxes: float32 [N, 4], the predicted boxes relative to the model input; None if predictions have none.
      outputs: Outputs of the model, float32, in the structure that the task's head gives them.
    """

    heatmap: tf.Tensor
    subject: Subject
    score: tf.Tensor
    boxes: tf.Tensor | None
    outputs: Any


def explainer(
    model: keras.Model, explanation: Explanation, method: ChosenExplanationMethod = "auto", layer: str = ""
) -> Callable[..., ExplainedBatch]:
    """Builds the function that explains batches, once per model; it can be traced into a SavedModel signature.

    It explains the scalar S that the task chooses: a logit, a sum of logits, or any other function of the network's
    outputs. S is not a probability: where softmax saturates, its gradient vanishes. The network runs forward once, and
    only the layers after the feature map A are differentiated. With g = dS/dA and k a channel of A, the weights of the
    channels are

      Grad-CAM: w_k = mean of g_k over all positions (equation 1 of Selvaraju et al.; equation 1 of Vinogradova et al.,
        where S is the sum over a region);
      Grad-CAM++: w_k = sum of a_k * ReLU(g_k) over all positions, a_k = g_k^2 / (2 g_k^2 + g_k^3 * sum of A_k)
        (equations 5 and 19 of Chattopadhay et al., for Y = exp(S), whose factor cancels in the normalisation);
      HiResCAM: w_k = g_k, position by position (equation 5 of Draelos and Carin). With S at one position of the output,
        as for detections, the map shows what this position depends on; a mean would show the channels everywhere.

    The heat map is ReLU(sum of w_k * A_k), resized bilinearly and divided by its maximum.

    Args:
      model: Maps pixels [N, h, w, c], range [0, 255], to the outputs of the task's head.
      explanation: Record of the task; `target`, `score` and `boxes` are read.
      method: How the weights of the channels are computed; `auto` is the task's default.
      layer: The feature map, as for `feature_maps.find_layer`; empty for the default.

    Returns:
      `explain(images, subject=Subject()) -> ExplainedBatch`; the task chooses what is None in the subject.

    Raises:
      ValueError: If the model has no such layer; on the first call, if the scalar does not depend on it.
    """
    layer_name = find_layer(model, layer)
    size: tuple[int, int] = model.input_shape[1:3]
    network = with_feature_map(model, layer_name)
    channel_weights = _CHANNEL_WEIGHTS[explanation.method(method)]

    @tf.function(reduce_retracing=True, autograph=False)
    def explain(images: tf.Tensor, subject: Subject = _CHOSEN_BY_TASK) -> ExplainedBatch:
        images = tf.cast(images, tf.float32)
        with fused(network):
            feature_map, outputs = network(images, training=False)
        outputs = as_float32(outputs)
        target = explanation.target(outputs, subject, size)
        # Images do not depend on each other at inference: the gradient of the sum is the gradient of every image.
        # Unlike a tape, tf.gradients adds nothing before the feature map to the graph, even if skip connections bypass
        # it.
        (gradients,) = tf.gradients(tf.reduce_sum(target.logit), feature_map)
        if gradients is None:
            raise ValueError(f"The explained output does not depend on the layer {layer_name!r}: choose another one.")
        gradients = tf.cast(gradients, tf.float32)
        activations = tf.cast(feature_map, tf.float32)
        maps = tf.nn.relu(tf.reduce_sum(channel_weights(gradients, activations) * activations, axis=-1))
        maps = tf.image.resize(maps[..., tf.newaxis], tf.shape(images)[1:3], method="bilinear")[..., 0]
        heatmap = tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=[1, 2], keepdims=True))
        score = explanation.score(outputs, target.subject)
        boxes = explanation.boxes(outputs, target.subject) if explanation.boxes else None
        return ExplainedBatch(heatmap, target.subject, score, boxes, outputs)

    explain_fn: Callable[..., ExplainedBatch] = explain
    return explain_fn


def as_float32(outputs: Any) -> Any:
    """Casts the outputs of a network, which are float16 or bfloat16 in mixed precision."""
    return tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)


def _mean_gradients(gradients: tf.Tensor, activations: tf.Tensor) -> tf.Tensor:
    """Computes the weights of Grad-CAM: [N, h, w, c] → [N, 1, 1, c]."""
    return tf.reduce_mean(gradients, axis=[1, 2], keepdims=True)


def _weighted_gradients(gradients: tf.Tensor, activations: tf.Tensor) -> tf.Tensor:
    """Computes the weights of Grad-CAM++: [N, h, w, c] → [N, 1, 1, c]."""
    # Numerator and denominator are divided by g^2: squares of small gradients would lose precision.
    sums = tf.reduce_sum(activations, axis=[1, 2], keepdims=True)
    alphas = tf.math.divide_no_nan(tf.cast(tf.not_equal(gradients, 0.0), tf.float32), 2.0 + gradients * sums)
    return tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=[1, 2], keepdims=True)


_CHANNEL_WEIGHTS: Mapping[ExplanationMethod, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "grad_cam": _mean_gradients,
    "grad_cam_plus_plus": _weighted_gradients,
    "hires_cam": lambda gradients, activations: gradients,
}
