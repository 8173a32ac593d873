"""Grad-CAM: where in a picture a class's evidence was found.

Reference: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import features

# Overlays are looked at by people: one with less than this side, pixels, is enlarged by a whole factor.
SMALLEST_OVERLAY = 224


class Explanation(NamedTuple):
    """Grad-CAM of a batch.

    Attributes:
      heatmap: float32 [N, image_size, image_size], range [0, 1]; all zero where nothing speaks for the class.
      class_id: int64 [N], the explained class.
      score: float32 [N], the class's probability.
    """

    heatmap: tf.Tensor
    class_id: tf.Tensor
    score: tf.Tensor


def explainer(model: keras.Model, layer: str = features.FEATURES_LAYER) -> Callable[..., Explanation]:
    """Builds, once a model, the function that explains batches; it can be traced into a SavedModel signature.

    The gradient is taken of the class's logit, not of its probability: where softmax saturates, the latter vanishes.
    The weight of a feature channel is the mean of that gradient over all positions (equation 1), the map is
    ReLU(sum of weighted channels) (equation 2), enlarged bilinearly and divided by its own maximum.

    Args:
      model: Maps pixels [N, h, w, c], range [0, 255], to logits [N, num_classes].
      layer: Name of the layer whose output [N, h', w', c'] is explained.

    Returns:
      `explain(images, class_ids=None) -> Explanation`; without class ids it explains the predicted class.

    Raises:
      ValueError: If the model has no such layer, or its output is not a spatial map.
    """
    feature_map = model.get_layer(layer).output
    if len(feature_map.shape) != 4:
        raise ValueError(f"Grad-CAM needs a layer with output [N, h, w, c]; {layer!r} gives {feature_map.shape}.")
    to_features = keras.Model(model.inputs, [feature_map, model.output], name="grad_cam")

    @tf.function(reduce_retracing=True)
    def explain(images: tf.Tensor, class_ids: tf.Tensor | None = None) -> Explanation:
        images = tf.cast(images, tf.float32)
        with tf.GradientTape() as tape:
            # So that the feature map is on the tape even where no variable comes before it.
            tape.watch(images)
            activations, logits = to_features(images, training=False)
            if class_ids is None:
                class_ids = tf.argmax(logits, axis=-1)
            # Rows do not depend on each other at inference: the gradient of the sum is every row's own gradient.
            total = tf.reduce_sum(tf.gather(logits, class_ids, batch_dims=1))
        gradients = tape.gradient(total, activations)
        weights = tf.reduce_mean(gradients, axis=[1, 2], keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1, keepdims=True))
        maps = tf.image.resize(maps, tf.shape(images)[1:3], method="bilinear")[..., 0]
        heatmap = tf.math.divide_no_nan(maps, tf.reduce_max(maps, axis=[1, 2], keepdims=True))
        scores = tf.gather(tf.nn.softmax(logits), class_ids, batch_dims=1)
        return Explanation(heatmap, tf.cast(class_ids, tf.int64), scores)

    explain_fn: Callable[..., Explanation] = explain
    return explain_fn


def color_table(colormap: str) -> np.ndarray:
    """The 256 colours of a matplotlib colour map, float32 [256, 3], range [0, 255].

    Raises:
      ValueError: If matplotlib knows no colour map of that name.
    """
    import matplotlib

    try:
        colors = matplotlib.colormaps[colormap]
    except KeyError:
        raise ValueError(
            f"Unknown colour map {colormap!r}; matplotlib has, for example, jet, viridis, magma."
        ) from None
    return (colors(np.linspace(0.0, 1.0, 256))[:, :3] * 255.0).astype(np.float32)


def overlay(images: tf.Tensor, heatmaps: tf.Tensor, colors: np.ndarray, alpha: float) -> tf.Tensor:
    """Blends heat maps over their pictures.

    Pictures smaller than 224 pixels are enlarged by the smallest whole factor that reaches it, every pixel as a
    square, so that what the model saw stays visible; the heat map is enlarged bilinearly.

    Args:
      images: uint8 [N, s, s, 1 or 3].
      heatmaps: float32 [N, s, s], range [0, 1].
      colors: float32 [256, 3], from `color_table`.
      alpha: Weight of the colours, range [0, 1].

    Returns:
      uint8 [N, s', s', 3].
    """
    side = int(images.shape[1])
    enlarged = [side * math.ceil(SMALLEST_OVERLAY / side)] * 2 if side < SMALLEST_OVERLAY else [side, side]
    pictures = tf.image.resize(tf.cast(images, tf.float32), enlarged, method="nearest")
    if images.shape[-1] == 1:
        pictures = tf.image.grayscale_to_rgb(pictures)
    heat = tf.image.resize(heatmaps[..., tf.newaxis], enlarged, method="bilinear")[..., 0]
    colored = tf.gather(tf.constant(colors), tf.cast(tf.round(heat * 255.0), tf.int32))
    blended = (1.0 - alpha) * pictures + alpha * colored
    return tf.cast(tf.clip_by_value(tf.round(blended), 0.0, 255.0), tf.uint8)


def encode_png(images: tf.Tensor) -> tf.Tensor:
    """Encodes uint8 [N, h, w, 3] as PNG files, string [N]."""
    return tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.TensorSpec([], tf.string))
