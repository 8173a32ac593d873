"""Batch normalisation as one operation instead of eight, where that is faster and gives the same values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


@contextmanager
def fused(model: keras.Model) -> Iterator[None]:
    """Makes the batch normalisation of a model run as TensorFlow's fused operation inside the `with` block.

    Keras 3 composes it of single operations, with casts to float32 and back in mixed precision. What is traced or saved
    inside the block keeps the fused form: serving becomes as much faster as a training step. The values differ by
    rounding only.

    Args:
      model: Models within it are included. Layers keep their weights; only their `call` is replaced.
    """
    layers = [layer for layer in _layers(model) if _can_be_fused(layer)]
    for layer in layers:
        layer.__class__ = _FusedBatchNormalization
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = keras.layers.BatchNormalization


class _FusedBatchNormalization(keras.layers.BatchNormalization):
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        by_batch = bool(training and self.trainable)
        if not isinstance(inputs, tf.Tensor) or mask is not None or (by_batch and not self._is_faster_by_batch()):
            return super().call(inputs, training=training, mask=mask)
        gamma = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(self.moving_mean)
        beta = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(self.moving_mean)
        normalized, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=[] if by_batch else tf.convert_to_tensor(self.moving_mean),
            variance=[] if by_batch else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=by_batch,
        )
        if by_batch:
            # The operation returns the unbiased variance, Keras uses the variance of the batch.
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
            variance *= (count - 1.0) / count
            for moving, current in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + current * (1.0 - self.momentum))
        return normalized

    def _is_faster_by_batch(self) -> bool:
        # In float32 on a CPU, the fused gradient takes 1.4 times as long as the composed one.
        return self.compute_dtype != "float32" or bool(tf.config.list_physical_devices("GPU"))


def _can_be_fused(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.input_spec.ndim == 4
        and layer.axis in (-1, 3)
        and not layer.synchronized
    )


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
