"""Overlays: heat maps in colour, blended over their images, as PNG."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from trainer_module import geometry
from trainer_module.model_input import Geometry

# Smallest side of an overlay that is shown, pixels: smaller images would be hard to see.
SMALLEST_OVERLAY = 224

# Thickness of outlines, pixels, and as a share of the smaller side of the image.
_THINNEST_OUTLINE, _OUTLINE_SHARE = 1.0, 1 / 150

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


def blend(image: tf.Tensor, heatmap: tf.Tensor, colors: np.ndarray, alpha: float) -> tf.Tensor:
    """Blends a heat map over its image, block by block: of large images, the colours of all pixels take much memory.

    Args:
      image: uint8 [height, width, 1 or 3].
      heatmap: float32 [h, w] over the whole image, range [0, 1]; resized bilinearly.
      colors: float32 [256, 3], from `color_table`.
      alpha: Weight of the colours, range [0, 1].

    Returns:
      uint8 [height, width, 3].
    """
    size = tf.shape(image)[:2]
    rows, columns = geometry.samples(size, Geometry(tuple(heatmap.shape)), size)

    def blend_rows(indices: tf.Tensor) -> tf.Tensor:
        heat = columns.read(rows.at(indices).read(heatmap, axis=0), axis=1)
        colored = tf.gather(tf.constant(colors), tf.cast(tf.round(heat * 255.0), tf.int32))
        blended = (1.0 - alpha) * tf.cast(tf.gather(image, indices), tf.float32) + alpha * colored
        return tf.cast(tf.clip_by_value(tf.round(blended), 0.0, 255.0), tf.uint8)

    return geometry.in_blocks(blend_rows, size[0], tf.TensorSpec([None, None, 3], tf.uint8))


def outline(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Draws the outline of a box: a white line between black edges, inside the box so that borders do not hide it.

    `tf.image.draw_bounding_boxes` was tried: its lines are one pixel wide, and of one colour.

    Args:
      image: uint8 [height, width, 3].
      box: float32 [4] (ymin, xmin, ymax, xmax), relative to the image, range [0, 1].

    Returns:
      uint8 [height, width, 3].
    """
    size = tf.shape(image)[:2]
    height, width = tf.unstack(tf.cast(size, tf.float32))
    thickness = tf.maximum(_THINNEST_OUTLINE, tf.round(_OUTLINE_SHARE * tf.minimum(height, width)))
    top, left, bottom, right = tf.unstack(tf.round(box * tf.stack([height, width, height, width])))

    def inside(margin: tf.Tensor) -> tf.Tensor:
        y, x = tf.range(height), tf.range(width)
        rows, columns = (y >= top + margin) & (y < bottom - margin), (x >= left + margin) & (x < right - margin)
        return rows[:, tf.newaxis] & columns

    def between(outer: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
        return (inside(outer) & ~inside(inner))[..., tf.newaxis]

    edged = tf.where(between(0.0, thickness + 2.0), tf.constant(0, tf.uint8), image)
    return tf.where(between(1.0, thickness + 1.0), tf.constant(255, tf.uint8), edged)


def enlarged(image: tf.Tensor) -> tf.Tensor:
    """Enlarges an image whose smaller side is less than 224 pixels by the smallest whole factor that reaches it.

    Every pixel becomes a square, so that it stays visible: uint8 [height, width, c] → uint8 [k height, k width, c].
    """
    factor = math.ceil(SMALLEST_OVERLAY / min(image.shape[:2]))
    return tf.repeat(tf.repeat(image, factor, axis=0), factor, axis=1)
