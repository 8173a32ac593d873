"""Grad-CAM, Grad-CAM++ and Seg-Grad-CAM: where in a picture a class's evidence was found.

References: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3; Chattopadhay et al. 2018,
https://arxiv.org/abs/1710.11063, section 3; Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import keras
import tensorflow as tf

from trainer_module.feature_maps import find_layer, with_feature_map
from trainer_module.fused_normalization import fused
from trainer_module.pixel_metrics import count_pixels

Method = Literal["grad_cam", "grad_cam_plus_plus"]


class Explanation(NamedTuple):
    """Heat maps of a batch, and what they are of.

    Attributes:
      heatmap: float32 [N, image_size, image_size], range [0, 1]; all zero where nothing speaks for the class.
      class_id: int64 [N], the explained class.
      score: float32 [N], the class's probability; with masks its mean over the region, 0 where that is empty.
      region: bool [N, image_size, image_size], the pixels that are explained; of whole pictures None.
      logits: The model's answer, float32 [N, num_classes] or [N, image_size, image_size, num_classes].
    """

    heatmap: tf.Tensor
    class_id: tf.Tensor
    score: tf.Tensor
    region: tf.Tensor | None
    logits: tf.Tensor


def explainer(model: keras.Model, method: Method = "grad_cam", layer: str = "") -> Callable[..., Explanation]:
    """Builds, once a model, the function that explains batches; it can be traced into a SavedModel signature.

    What is explained is S, the class's logit; with masks its sum over a region. It is not the probability: where
    softmax saturates, its gradient vanishes. The network runs forward once, and only the layers after the feature map A
    are differentiated. With g = dS/dA and k a channel of A, the weights of channels are

      Grad-CAM: w_k = mean of g_k over all positions (equation 1 of Selvaraju et al.; equation 1 of Vinogradova et al.,
        where S is the sum over a region);
      Grad-CAM++: w_k = sum of a_k * ReLU(g_k) over all positions, a_k = g_k^2 / (2 g_k^2 + g_k^3 * sum of A_k)
        (equations 5 and 19 of Chattopadhay et al., for Y = exp(S), whose factor normalisation takes away).

    The map is ReLU(sum of w_k * A_k), enlarged bilinearly and divided by its own maximum.

    Args:
      model: Maps pixels [N, h, w, c], range [0, 255], to logits [N, num_classes] or [N, h, w, num_classes].
      method: How channels are weighed.
      layer: The feature map, as `feature_maps.find_layer` takes it; empty for the default.

    Returns:
      `explain(images, class_ids=None, regions=None) -> Explanation`. Without class ids (int [N]) it explains the
      predicted class: the most probable one; with masks the one that takes up the most pixels, the first class, the
      background, excepted wherever there is another. Regions are bool [N, h, w] and for masks only; without them it
      explains the pixels where the class is predicted.

    Raises:
      ValueError: If the model has no such layer.
    """
    network = with_feature_map(model, find_layer(model, layer))
    weigh = {"grad_cam": _mean_gradients, "grad_cam_plus_plus": _weighted_gradients}[method]

    @tf.function(reduce_retracing=True)
    def explain(images: tf.Tensor, class_ids: tf.Tensor | None = None, regions: tf.Tensor | None = None) -> Explanation:
        images = tf.cast(images, tf.float32)
        with fused(network):
            feature_map, logits = network(images, training=False)
        logits = tf.cast(logits, tf.float32)
        if len(logits.shape) == 4:
            class_ids, regions = target(logits, class_ids, regions)
        elif class_ids is None:
            class_ids = tf.argmax(logits, axis=-1)
        of_class = tf.gather(logits, class_ids, axis=-1, batch_dims=1)
        # Rows do not depend on each other at inference: the gradient of the sum is every row's own gradient.
        total = tf.reduce_sum(of_class if regions is None else tf.where(regions, of_class, 0.0))
        # Unlike a tape, it adds nothing below the map to the graph, not even where skip connections pass the map by.
        (gradients,) = tf.gradients(total, feature_map)
        gradients = tf.cast(gradients, tf.float32)
        activations = tf.cast(feature_map, tf.float32)
        maps = tf.nn.relu(tf.einsum("nhwk,nk->nhw", activations, weigh(gradients, activations)))
        maps = tf.image.resize(maps[..., tf.newaxis], tf.shape(images)[1:3], method="bilinear")[..., 0]
        heatmap = tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=[1, 2], keepdims=True))
        class_ids = tf.cast(class_ids, tf.int64)
        return Explanation(heatmap, class_ids, scores(logits, class_ids, regions), regions, logits)

    explain_fn: Callable[..., Explanation] = explain
    return explain_fn


def scores(logits: tf.Tensor, class_ids: tf.Tensor, regions: tf.Tensor | None = None) -> tf.Tensor:
    """The probability of a class.

    Args:
      logits: float32 [N, num_classes], or [N, h, w, num_classes] with regions.
      class_ids: int [N].
      regions: bool [N, h, w].

    Returns:
      float32 [N]; with regions the mean over them, 0 where one is empty.
    """
    probabilities = tf.gather(tf.nn.softmax(logits), class_ids, axis=-1, batch_dims=1)
    if regions is None:
        return probabilities
    inside = tf.cast(regions, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(probabilities * inside, axis=[1, 2]), tf.reduce_sum(inside, axis=[1, 2]))


def largest_class(masks: tf.Tensor, num_classes: int) -> tf.Tensor:
    """The class that takes up the most pixels, the first one, the background, excepted where there is another.

    Args:
      masks: int [N, h, w], class ids.
      num_classes: Number of classes.

    Returns:
      int64 [N]; of several equally large classes the first.
    """
    others = count_pixels(masks, num_classes)[:, 1:]
    return tf.where(tf.reduce_any(others > 0, axis=-1), 1 + tf.argmax(others, axis=-1), tf.constant(0, tf.int64))


def target(logits: tf.Tensor, class_ids: tf.Tensor | None, regions: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """What of masks is explained where it is not said: class ids int [N] and regions bool [N, h, w], as in `explainer`.

    Args:
      logits: float32 [N, h, w, num_classes].
      class_ids: int [N].
      regions: bool [N, h, w].
    """
    predicted = tf.argmax(logits, axis=-1)
    if class_ids is None:
        class_ids = largest_class(predicted, logits.shape[-1])
    if regions is None:
        regions = tf.equal(predicted, tf.cast(class_ids, tf.int64)[:, tf.newaxis, tf.newaxis])
    return class_ids, regions


def _mean_gradients(gradients: tf.Tensor, activations: tf.Tensor) -> tf.Tensor:
    """Of Grad-CAM: [N, h, w, c] → [N, c]."""
    return tf.reduce_mean(gradients, axis=[1, 2])


def _weighted_gradients(gradients: tf.Tensor, activations: tf.Tensor) -> tf.Tensor:
    """Of Grad-CAM++: [N, h, w, c] → [N, c]."""
    # Numerator and denominator are divided by g^2, whose digits would be lost where gradients are small.
    sums = tf.reduce_sum(activations, axis=[1, 2], keepdims=True)
    alphas = tf.math.divide_no_nan(tf.cast(tf.not_equal(gradients, 0.0), tf.float32), 2.0 + gradients * sums)
    return tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=[1, 2])
