"""TFRecords of raw examples → batches for Keras, by way of the transform graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module import features, preprocessing
from trainer_module.options import TransformOptions

# Serialised raw examples, string [N] → transformed features, each [N, ...].
TransformGraph = Callable[[tf.Tensor], dict[str, tf.Tensor]]

# Transformed features of a batch and the options of Transform → the batch's labels, each [n, ...].
ReadLabel = Callable[[dict[str, tf.Tensor], TransformOptions], tf.Tensor]

Cache = Literal["auto", "memory", "disk", "none"]

LARGEST_MEMORY_CACHE = 2 * 2**30  # bytes of pixels or features, for each of the train and the validation split
LARGEST_SHUFFLE_BUFFER = 512 * 2**20  # bytes of the same
_DECODED_TOGETHER = 64


class PixelStatistics(NamedTuple):
    """Mean and variance of every channel over the train split, as Transform's full pass found them.

    Attributes:
      mean: float32 [channels], range [0, 255].
      variance: float32 [channels].
    """

    mean: np.ndarray
    variance: np.ndarray


def read_pixel_statistics(file_patterns: Sequence[str], transform: TransformGraph) -> PixelStatistics:
    """Reads the statistics from the first example: the transform graph gives them, constant, with every one.

    Args:
      file_patterns: Globs of TFRecord files of raw examples.
      transform: The transform graph.

    Raises:
      ValueError: If the files hold no example.
    """
    for serialized in records(file_patterns).batch(1).take(1):
        transformed = transform(serialized)
        return PixelStatistics(
            transformed[features.PIXEL_MEAN][0].numpy(), transformed[features.PIXEL_VARIANCE][0].numpy()
        )
    raise ValueError(f"No examples in {list(file_patterns)}.")


def examples(
    file_patterns: Sequence[str],
    transform: TransformGraph,
    options: TransformOptions,
    *,
    num_examples: int,
    cache_dir: str,
    cache: Cache = "auto",
    read_label: ReadLabel,
) -> tf.data.Dataset:
    """Reads raw examples as (pixels, label), in file order.

    Pictures are decoded and resized by the transform graph in the first pass only, and kept as uint8. All that is made
    of the result shares what is kept.

    Args:
      file_patterns: Globs of TFRecord files of raw examples.
      transform: The transform graph.
      options: Size and channels of the pixels.
      num_examples: How many are read, the first of the files.
      cache_dir: Receives the file, where one is needed.
      cache: Where pictures are kept, as `training.cache` says; `none` decodes in every pass.
      read_label: How the task finds its label among the transformed features.

    Returns:
      Dataset of (uint8 [image_size, image_size, channels], label [...]), whose cardinality is known.
    """

    def decode(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        transformed = transform(serialized)
        pixels = preprocessing.unpack(transformed[features.IMAGE_PIXELS], options.image_size, options.channels)
        return pixels, read_label(transformed, options)

    chosen = records(file_patterns).take(num_examples)
    decoded = chosen.batch(_DECODED_TOGETHER).map(decode, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    if cache != "none":
        decoded = kept(decoded, num_examples * _bytes_each(decoded), f"{cache_dir}/pixels", cache)
    return decoded.apply(tf.data.experimental.assert_cardinality(num_examples))


def batched(examples: tf.data.Dataset, batch_size: int, *, shuffle_seed: int | None = None) -> tf.data.Dataset:
    """Examples as batches for Keras, one pass, in the given order unless shuffled.

    Args:
      examples: From `examples`.
      batch_size: Examples a batch; the last one may be smaller.
      shuffle_seed: Shuffles anew in every epoch, reproducibly, when given.

    Returns:
      Dataset of (uint8 [n, image_size, image_size, channels], label [n, ...]).
    """
    if shuffle_seed is not None:
        examples = shuffled(examples, int(examples.cardinality()), _bytes_each(examples), shuffle_seed)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _bytes_each(examples: tf.data.Dataset) -> int:
    """Of pixels, and of the mask if the label is one; a class id is next to nothing."""
    return sum(spec.shape.num_elements() or 1 for spec in examples.element_spec)


def kept(examples: tf.data.Dataset, num_bytes: int, cache_path: str, cache: Cache = "auto") -> tf.data.Dataset:
    """Keeps what the first pass gives, in memory or in a file.

    Args:
      examples: What is computed once.
      num_bytes: Of all of it; negative where that is not known, which counts as too large.
      cache_path: Beginning of the files' names, where they are needed; its folder is created.
      cache: `auto` is memory where it fits, else a file.
    """
    if cache == "memory" or (cache == "auto" and 0 <= num_bytes <= LARGEST_MEMORY_CACHE):
        return examples.cache()
    tf.io.gfile.makedirs(os.path.dirname(cache_path))
    return examples.cache(cache_path)


def shuffled(examples: tf.data.Dataset, num_examples: int, bytes_each: int, seed: int) -> tf.data.Dataset:
    """Shuffles anew in every epoch, reproducibly, with as large a buffer as there is use and room for.

    Args:
      examples: One element an example.
      num_examples: At most; not positive where that is not known.
      bytes_each: Of an example.
      seed: Of the order.
    """
    room = max(1, LARGEST_SHUFFLE_BUFFER // bytes_each)
    buffer_size = min(num_examples, room) if num_examples > 0 else room
    return examples.shuffle(buffer_size, seed=seed, reshuffle_each_iteration=True)


def count(file_patterns: Sequence[str]) -> int:
    """Counts the examples; nothing is parsed."""
    return int(
        records(file_patterns)
        .batch(1024)
        .reduce(np.int64(0), lambda total, batch: total + tf.shape(batch, tf.int64)[0])
    )


def records(file_patterns: Sequence[str]) -> tf.data.Dataset:
    """Reads serialised examples from TFRecord files, string [] each, in the order of the files' names."""
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    return files.interleave(
        tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
