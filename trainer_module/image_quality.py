"""Lower image quality inside a TensorFlow graph: JPEG compression, blur and noise of whole batches.

`images` are float32 [N, h, w, c], range [0, 255], all but N static.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


def compress(images: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Encodes and decodes images as JPEG, with colour at half resolution (4:2:0).

    Args:
      images: See the module; c is 1 or 3.
      quality: int32 [N], range [1, 100], as libjpeg defines it; 0 leaves an image as it is.

    Returns:
      Whole numbers of the same shape and range, except for the unchanged images.
    """

    def compress_one(arguments: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, own_quality = arguments

        def compressed() -> tf.Tensor:
            pixels = tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
            decoded = tf.image.adjust_jpeg_quality(pixels, own_quality)
            return tf.ensure_shape(tf.cast(decoded, tf.float32), image.shape)

        return tf.cond(own_quality > 0, compressed, lambda: image)

    signature = tf.TensorSpec(images.shape[1:], tf.float32)
    return tf.map_fn(compress_one, (images, quality), fn_output_signature=signature)


def blur(images: tf.Tensor, sigma: tf.Tensor, largest: float) -> tf.Tensor:
    """Convolves every image with a Gaussian of its own; pixels outside take the value of the nearest pixel.

    Args:
      images: See the module.
      sigma: float32 [N], standard deviation in pixels; 0 leaves an image as it is.
      largest: Upper bound of `sigma`, which determines the size of the kernel.
    """
    radius = max(1, math.ceil(3.0 * largest))
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 1e-3)[:, tf.newaxis]))
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    weights = weights[..., tf.newaxis, tf.newaxis, tf.newaxis]
    # A convolution has one kernel for all images of a batch; a sum of shifted images has one for each.
    for axis in (1, 2):
        size = images.shape[axis]
        padded = tf.gather(images, np.clip(np.arange(-radius, size + radius), 0, size - 1), axis=axis)
        shifted = [padded[:, i : i + size] if axis == 1 else padded[:, :, i : i + size] for i in range(2 * radius + 1)]
        images = tf.add_n([weights[:, index] * image for index, image in enumerate(shifted)])
    return images


def add_noise(images: tf.Tensor, deviation: tf.Tensor, normal: tf.Tensor) -> tf.Tensor:
    """Adds noise to every value.

    Args:
      images: See the module.
      deviation: float32 [N], standard deviation in the units of the pixels.
      normal: Standard normal numbers of the shape of `images`.
    """
    return tf.clip_by_value(images + deviation[:, tf.newaxis, tf.newaxis, tf.newaxis] * normal, 0.0, 255.0)
