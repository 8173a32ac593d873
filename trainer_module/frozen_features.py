"""What a frozen network says of every picture, computed once instead of once an epoch."""

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
    """Replaces pictures by their features.

    The pictures are read in the first pass only. The features stay in memory where they fit, else in a file.

    Args:
      encoder: From pixels to features, each [n, ...]; nothing in it may change while the result is used.
      data: (uint8 [n, h, w, c], ...) batches: labels, and weights if there are any, are passed on.
      batch_size: Examples a batch of the result; the last one may be smaller.
      cache_path: Beginning of the files' names, where they are needed; its folder is created.
      shuffle_seed: Shuffles anew in every epoch, reproducibly, when given.

    Returns:
      Dataset of (features [n, ...], ...).

    Raises:
      ValueError: If the encoder has weights that training would change.

    Reference: Donahue et al. 2014, https://arxiv.org/abs/1310.1531, section 3 (activations as fixed features).
    """
    if encoder.trainable_weights:
        raise ValueError(f"{len(encoder.trainable_weights)} weights of the encoder can be trained; freeze it first.")
    dtype, shape = encoder.output.dtype, encoder.output.shape[1:]

    @tf.function(input_signature=[tf.TensorSpec([None, *encoder.input_shape[1:]], tf.float32)])
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
    bytes_each = tf.as_dtype(dtype).size * tf.TensorShape(shape).num_elements()
    most = int(data.cardinality()) * batch_size  # negative where the number of batches is not known
    examples = input_pipeline.kept(examples, most * bytes_each, cache_path)
    if shuffle_seed is not None:
        examples = input_pipeline.shuffled(examples, most, bytes_each, shuffle_seed)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)
