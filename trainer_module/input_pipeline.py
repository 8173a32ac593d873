"""Reads TFRecords of raw examples as batches for Keras, through the transform graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import features, free_memory, preprocessing
from trainer_module.distribution import ALL_EXAMPLES, Shard
from trainer_module.model_input import FULL_WINDOW, Window
from trainer_module.options import TransformOptions

# Serialized raw examples, string [N] → transformed features, each [N, ...].
TransformGraph = Callable[[tf.Tensor], dict[str, tf.Tensor]]

# Transformed features of a batch and the options of Transform → the batch's labels, each [n, ...].
ReadLabel = Callable[[dict[str, tf.Tensor], TransformOptions], tf.Tensor]

Cache = Literal["auto", "memory", "disk", "none"]

# Share of the free memory for pixels or features, for each of the train and the validation split.
_CACHED_SHARE = 0.25
_CACHED_IF_UNKNOWN = 2 * 2**30  # bytes, if the system does not say how much memory is free
MAX_SHUFFLE_BYTES = 512 * 2**20  # of pixels or features
_DECODE_BATCH_SIZE = 64


class PixelStatistics(NamedTuple):
    """Mean and variance of every channel over the train split, computed by Transform.

    Attributes:
      mean: float32 [channels], range [0, 255].
      variance: float32 [channels].
    """

    mean: np.ndarray
    variance: np.ndarray


def read_pixel_statistics(file_patterns: Sequence[str], transform: TransformGraph) -> PixelStatistics:
    """Reads the statistics from the first example; the transform graph adds the same ones to every example.

    Args:
      file_patterns: Globs of TFRecord files of raw examples.
      transform: The transform graph.

    Raises:
      ValueError: If the files contain no example.
    """
    for serialized in read_records(file_patterns).batch(1).take(1):
        transformed = transform(serialized)
        return PixelStatistics(
            transformed[features.PIXEL_MEAN][0].numpy(), transformed[features.PIXEL_VARIANCE][0].numpy()
        )
    raise ValueError(f"No examples in {list(file_patterns)}.")


def read_window(file_patterns: Sequence[str]) -> Window:
    """Reads the window of the dataset's 16-bit images from the first raw example; all values by default."""
    spec = {features.IMAGE_WINDOW: tf.io.FixedLenFeature([2], tf.int64, tf.constant(FULL_WINDOW, tf.int64))}
    for serialized in read_records(file_patterns).take(1):
        return Window(*tf.io.parse_single_example(serialized, spec)[features.IMAGE_WINDOW].numpy().tolist())
    return FULL_WINDOW


def read_examples(
    file_patterns: Sequence[str],
    transform: TransformGraph,
    options: TransformOptions,
    *,
    num_examples: int,
    cache_dir: str,
    cache: Cache = "auto",
    shard: Shard = ALL_EXAMPLES,
    read_label: ReadLabel,
) -> tf.data.Dataset:
    """Reads raw examples as (pixels, label), in file order.

    The transform graph decodes and resizes the images in the first pass only; they are cached as uint8. All datasets
    derived from the result share the cache.

    Args:
      file_patterns: Globs of TFRecord files of raw examples.
      transform: The transform graph.
      options: Size and channels of the pixels.
      num_examples: Number of examples to read, from the start of the files.
      cache_dir: Receives the cache file, if one is needed.
      cache: Where images are cached, see `training.cache`; `none` decodes in every pass.
      shard: The part that is decoded and returned.
      read_label: The task's reader of labels.

    Returns:
      Dataset of (uint8 [h, w, channels], label [...]), of known cardinality.
    """

    @tf.autograph.experimental.do_not_convert
    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        transformed = transform(serialized)
        pixels = preprocessing.unpack(transformed[features.IMAGE_PIXELS], options.image_size, options.num_channels)
        return pixels, read_label(transformed, options)

    serialized = shard.of(read_records(file_patterns).take(num_examples), num_examples).batch(_DECODE_BATCH_SIZE)
    num_examples = shard.size(num_examples)
    decoded = serialized.map(decode, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    if cache != "none":
        decoded = cache_examples(decoded, num_examples * _bytes_per_example(decoded), f"{cache_dir}/pixels", cache)
    return decoded.apply(tf.data.experimental.assert_cardinality(num_examples))


def batch_examples(examples: tf.data.Dataset, batch_size: int, *, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Batches examples for Keras, in their order unless shuffled.

    Args:
      examples: From `read_examples`.
      batch_size: Examples per batch; the last one may be smaller.
      shuffle_seed: Seed of a different, reproducible order in every epoch; None keeps the order.

    Returns:
      Dataset of (uint8 [n, h, w, channels], label [n, ...]).
    """
    if shuffle_seed is not None:
        examples = shuffle_examples(examples, int(examples.cardinality()), _bytes_per_example(examples), shuffle_seed)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _bytes_per_example(examples: tf.data.Dataset) -> int:
    """Counts a byte per pixel and per element of the label; that class ids have 8 does not matter."""
    return sum(spec.shape.num_elements() or 1 for spec in examples.element_spec)


def cache_examples(
    examples: tf.data.Dataset, num_bytes: int, cache_path: str, cache: Cache = "auto"
) -> tf.data.Dataset:
    """Caches the examples of the first pass, in memory or in a file.

    Args:
      examples: Computed once.
      num_bytes: Size of all examples; negative if unknown, which counts as too large for memory.
      cache_path: Prefix of the cache files, if they are needed; its folder is created.
      cache: `auto` is memory if the examples fit into a quarter of what is free, else a file.
    """
    if cache == "memory" or (cache == "auto" and 0 <= num_bytes <= _most_cached_bytes()):
        return examples.cache()
    tf.io.gfile.makedirs(os.path.dirname(cache_path))
    return examples.cache(cache_path)


def _most_cached_bytes() -> int:
    available = free_memory.available_bytes()
    return _CACHED_IF_UNKNOWN if available is None else int(available * _CACHED_SHARE)


def shuffle_examples(
    examples: tf.data.Dataset, num_examples: int, bytes_per_example: int, seed: int
) -> tf.data.Dataset:
    """Shuffles in a different, reproducible order in every epoch; the buffer holds all examples if they fit.

    Args:
      examples: One element per example.
      num_examples: Maximum number of examples; not positive if unknown.
      bytes_per_example: Size of one example.
      seed: Seed of the order.
    """
    largest = max(1, MAX_SHUFFLE_BYTES // bytes_per_example)
    buffer_size = min(num_examples, largest) if num_examples > 0 else largest
    return examples.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=True)


def count_records(file_patterns: Sequence[str]) -> int:
    """Counts the examples without parsing them."""
    return int(
        read_records(file_patterns)
        .batch(1024)
        .reduce(np.int64(0), lambda total, batch: total + tf.shape(batch, tf.int64)[0])
    )


def read_records(file_patterns: Sequence[str]) -> tf.data.Dataset:
    """Reads serialized examples from TFRecord files, string [] each, in the order of the files' names."""
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    return files.interleave(
        tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
