"""Overlays: heat maps in colour, blended over their images, as PNG."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

# Smallest side of an overlay, pixels: smaller images would be hard to see.
SMALLEST_OVERLAY = 224

# PNG compression level of overlays: takes a seventh of the time of zlib's default, for files a third larger. With the
# default, encoding would take several times as long as explaining.
FAST_COMPRESSION = 1


def color_table(colormap: str) -> np.ndarray:
    """Returns the 256 colours of a matplotlib colour map, float32 [256, 3], range [0, 255].

    Raises:
      ValueError: If matplotlib has no colour map of that name.
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
    """Blends heat maps over their images.

    Images smaller than 224 pixels are enlarged by the smallest whole factor that reaches it, every pixel as a square,
    so that the pixels of the model input stay visible; the heat map is resized bilinearly.

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
    images = tf.image.resize(tf.cast(images, tf.float32), enlarged, method="nearest")
    if images.shape[-1] == 1:
        images = tf.image.grayscale_to_rgb(images)
    heat = tf.image.resize(heatmaps[..., tf.newaxis], enlarged, method="bilinear")[..., 0]
    colored = tf.gather(tf.constant(colors), tf.cast(tf.round(heat * 255.0), tf.int32))
    blended = (1.0 - alpha) * images + alpha * colored
    return tf.cast(tf.clip_by_value(tf.round(blended), 0.0, 255.0), tf.uint8)


def encode_png(images: tf.Tensor, level: int = -1) -> tf.Tensor:
    """Encodes uint8 [N, h, w, 1 or 3] as PNG files, string [N].

    Args:
      images: The images.
      level: Compression level, 0 to 9; -1 is zlib's default.
    """

    def encode(image: tf.Tensor) -> tf.Tensor:
        return tf.io.encode_png(image, compression=level)

    return tf.map_fn(encode, images, fn_output_signature=tf.TensorSpec([], tf.string))
