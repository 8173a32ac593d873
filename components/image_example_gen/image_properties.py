"""Properties of images: size, mean and standard deviation of the channels, slices, perceptual hash."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.image_example_gen.perceptual_hash import SIDE, perceptual_hashes
from trainer_module import features, image_statistics, orientation, preprocessing

# Luma of ITU-R BT.601, section 2.5.1, from red, green and blue.
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
# Larger images are sampled on a regular grid: their moments need no more, and a float copy of fifty million pixels
# would need a gigabyte.
_MOST_SAMPLED_SIDE = 1024
# Below this standard deviation, grey levels, an image has no structure that a hash could compare.
_FLAT = 1.0


class ImageProperties(NamedTuple):
    """Properties of a readable image.

    Attributes:
      format: "JPEG", "PNG" or "GIF".
      height: Pixels, upright.
      width: Pixels, upright.
      mean: Mean of every channel, by the names of `features.CHANNELS`, range [0, 255].
      deviation: Standard deviation of every channel.
      perceptual_hash: 63 bits, or None for an image without structure.
      orientation: EXIF orientation of the stored pixels, 1 (upright) to 8.
    """

    format: str
    height: int
    width: int
    mean: dict[str, float]
    deviation: dict[str, float]
    perceptual_hash: int | None = None
    orientation: int = 1

    def slices(self) -> dict[str, str]:
        """Returns the built-in slice values, by slice name; see `image_statistics.slices`."""
        return image_statistics.slices(self.height, self.width, self.mean[features.LUMA])


@functools.cache
def measure_function() -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns the graph of everything that reads all pixels, traced once per process.

    It does only what must be done per image: a dozen small operations take as long as decoding a small image. The rest
    follows from its results for many images at once, in `finish`.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def measure(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        exif_orientation = orientation.exif_orientation(encoded)
        pixels = orientation.upright(preprocessing.decode_as_stored(encoded), exif_orientation)
        shape = tf.shape(pixels)[:2]
        step = 1 + (tf.reduce_max(shape) - 1) // _MOST_SAMPLED_SIDE
        sampled = tf.ensure_shape(pixels[::step, ::step], [None, None, 3])
        # Whole numbers up to 2^53 are exact in float64; a float32 sum of a million pixels is off by a hundredth.
        flat = tf.reshape(tf.cast(sampled, tf.float64), [-1, 3])
        sums, products = tf.reduce_sum(flat, axis=0), tf.matmul(flat, flat, transpose_a=True)
        reduced = tf.raw_ops.ResizeArea(images=sampled[tf.newaxis], size=[SIDE, SIDE])
        return shape, tf.shape(flat)[0], sums, products, reduced[0], exif_orientation

    traced: Callable[[tf.Tensor], tuple[tf.Tensor, ...]] = measure
    return traced


@functools.cache
def measure_together_function() -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns the graph that measures several files at once, string [N] → as `measure_function`, batched.

    They must be small PNG files of one size. Each is decoded, and everything else is done for all of them at once.
    """

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def measure_together(encoded: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = tf.map_fn(
            preprocessing.decode_as_stored, encoded, fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
        )
        shape = tf.shape(pixels)
        num_images, num_sampled = shape[0], shape[1] * shape[2]
        flat = tf.reshape(tf.cast(pixels, tf.float64), [num_images, num_sampled, 3])
        sums, products = tf.reduce_sum(flat, axis=1), tf.matmul(flat, flat, transpose_a=True)
        reduced = tf.raw_ops.ResizeArea(images=pixels, size=[SIDE, SIDE])
        shapes = tf.repeat(shape[tf.newaxis, 1:3], num_images, axis=0)
        return shapes, tf.fill([num_images], num_sampled), sums, products, reduced, tf.ones([num_images], tf.int32)

    traced: Callable[[tf.Tensor], tuple[tf.Tensor, ...]] = measure_together
    return traced


def finish(formats: Sequence[str], measured: Sequence[np.ndarray]) -> list[ImageProperties]:
    """Computes the properties of a batch of images.

    Args:
      formats: Format of each.
      measured: The results of `measure_function`, batched: shapes [N, 2], numbers of sampled pixels [N], sums [N, 3]
        and sums of products [N, 3, 3] of the colours, reduced images [N, 32, 32, 3], EXIF orientations [N].
    """
    shapes, num_sampled, sums, products, reduced, orientations = measured
    colors = sums / num_sampled[:, np.newaxis]
    covariance = products / num_sampled[:, np.newaxis, np.newaxis] - colors[:, :, np.newaxis] * colors[:, np.newaxis]
    # Luma is a weighted sum of the colours, and so its variance follows from theirs.
    means = np.column_stack([colors, colors @ _LUMA_WEIGHTS])
    variances = np.column_stack(
        [np.diagonal(covariance, axis1=1, axis2=2), np.einsum("i,nij,j->n", _LUMA_WEIGHTS, covariance, _LUMA_WEIGHTS)]
    )
    deviations = np.sqrt(np.maximum(variances, 0.0))
    # One product of a matrix: NumPy takes twice the time for a product of the four dimensions.
    luma = (reduced.reshape(-1, 3).astype(np.float64) @ _LUMA_WEIGHTS).reshape(reduced.shape[:-1])
    hashes = perceptual_hashes(luma)
    return [
        ImageProperties(
            name,
            height,
            width,
            _by_channel(*mean),
            _by_channel(*deviation),
            image_hash if deviation[-1] >= _FLAT else None,
            exif_orientation,
        )
        for name, (height, width), mean, deviation, image_hash, exif_orientation in zip(
            formats,
            shapes.tolist(),
            means.tolist(),
            deviations.tolist(),
            hashes.tolist(),
            orientations.tolist(),
            strict=True,
        )
    ]


def _by_channel(red: float, green: float, blue: float, luma: float) -> dict[str, float]:
    # A literal takes a fifth of the time of a dict from pairs.
    return {_RED: red, _GREEN: green, _BLUE: blue, _LUMA: luma}


_RED, _GREEN, _BLUE, _LUMA = features.CHANNELS
