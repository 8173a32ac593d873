"""Transformed TFRecords → batches for Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import features, preprocessing
from trainer_module.options import TransformOptions


class PixelStatistics(NamedTuple):
    """Mean and variance of every channel over the train split, as Transform's full pass found them.

    Attributes:
      mean: float32 [channels], range [0, 255].
      variance: float32 [channels].
    """

    mean: np.ndarray
    variance: np.ndarray


def read_pixel_statistics(file_patterns: Sequence[str], channels: int) -> PixelStatistics:
    """Reads the statistics from the first transformed example: Transform writes them, constant, into every one.

    Raises:
      ValueError: If the files hold no example.
    """
    spec = {
        features.PIXEL_MEAN: tf.io.FixedLenFeature([channels], tf.float32),
        features.PIXEL_VARIANCE: tf.io.FixedLenFeature([channels], tf.float32),
    }
    for serialized in records(file_patterns).take(1):
        parsed = tf.io.parse_single_example(serialized, spec)
        return PixelStatistics(parsed[features.PIXEL_MEAN].numpy(), parsed[features.PIXEL_VARIANCE].numpy())
    raise ValueError(f"No transformed examples in {list(file_patterns)}.")


def batches(
    file_patterns: Sequence[str],
    transform: TransformOptions,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Reads transformed examples as (pixels, label) batches, one pass, in file order unless shuffled.

    Args:
      file_patterns: Globs of gzipped TFRecord files.
      transform: Size and channels of the stored pixels.
      batch_size: Examples a batch; the last one may be smaller.
      shuffle_seed: Shuffles anew in every epoch, reproducibly, when given.

    Returns:
      Dataset of (uint8 [n, image_size, image_size, channels], int64 [n]).
    """
    spec = {
        features.IMAGE_PIXELS: tf.io.FixedLenFeature([], tf.string),
        features.LABEL: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(serialized, spec)
        pixels = preprocessing.unpack(parsed[features.IMAGE_PIXELS], transform.image_size, transform.channels)
        return pixels, parsed[features.LABEL]

    serialized = records(file_patterns)
    if shuffle_seed is not None:
        serialized = serialized.shuffle(10_000, seed=shuffle_seed, reshuffle_each_iteration=True)
    return serialized.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def records(file_patterns: Sequence[str]) -> tf.data.Dataset:
    """Reads serialised examples from gzipped TFRecord files, string [] each, in the order of the files' names."""
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    return files.interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"),
        cycle_length=4,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
