"""Computes the features of a frozen network once per image instead of once per epoch."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer_module import input_pipeline
from trainer_module.fused_normalization import fused


def frozen_features(
    encoder: keras.Model,
    data: tf.data.Dataset,
    *,
    batch_size: int,
    cache_path: str,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Replaces images by their features.

    The images are read in the first pass only. The features are cached in memory if they fit, else in a file.

    Args:
      encoder: Maps pixels to features, each [n, ...]; it must not change while the result is used.
      data: (uint8 [n, h, w, c], ...) batches; labels, and sample weights if there are any, are passed on.
      batch_size: Examples per batch of the result; the last one may be smaller.
      cache_path: Prefix of the cache files, if they are needed; its folder is created.
      shuffle_seed: Seed of a different, reproducible order in every epoch; None keeps the order.

    Returns:
      Dataset of (features [n, ...], ...).

    Raises:
      ValueError: If the encoder has trainable weights.

    Reference: Donahue et al. 2014, https://arxiv.org/abs/1310.1531, section 3 (activations as fixed features).
    """
    if encoder.trainable_weights:
        raise ValueError(f"The encoder has {len(encoder.trainable_weights)} trainable weights; freeze it first.")
    dtype, shape = encoder.output.dtype, encoder.output.shape[1:]

    @tf.function(input_signature=[tf.TensorSpec([None, *encoder.input_shape[1:]], tf.float32)], autograph=False)
    def encode(images: tf.Tensor) -> tf.Tensor:
        return encoder(images, training=False)

    with fused(encoder):
        encode = encode.get_concrete_function()

    def encoded() -> Iterator[tuple[tf.Tensor, ...]]:
        for images, *rest in data:
            yield encode(tf.cast(images, tf.float32)), *rest

    _, *rest_specs = data.element_spec
    signature = (tf.TensorSpec([None, *shape], dtype), *rest_specs)
    examples = tf.data.Dataset.from_generator(encoded, output_signature=signature).unbatch()
    bytes_per_example = tf.as_dtype(dtype).size * tf.TensorShape(shape).num_elements()
    max_examples = int(data.cardinality()) * batch_size  # negative if the number of batches is unknown
    examples = input_pipeline.cache_examples(examples, max_examples * bytes_per_example, cache_path)
    if shuffle_seed is not None:
        examples = input_pipeline.shuffle_examples(examples, max_examples, bytes_per_example, shuffle_seed)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)
