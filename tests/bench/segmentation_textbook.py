"""A U-Net as tutorials write it: random weights, RMSprop, cross-entropy, a mirrored image now and then."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

_DEPTH, _FILTERS, _BATCH_SIZE = 4, 32, 8


def _block(x: Any, filters: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
    return x


def build(size: int, num_ids: int) -> keras.Model:
    """From pixels [0, 255] to logits of every id that masks hold, the one to be ignored among them."""
    x = inputs = keras.Input([size, size, 3])
    x = layers.Rescaling(1 / 255)(x)
    skips = []
    for level in range(_DEPTH):
        skips.append(_block(x, _FILTERS * 2**level))
        x = layers.MaxPooling2D()(skips[-1])
    x = layers.Dropout(0.3)(_block(x, _FILTERS * 2**_DEPTH))
    for level in reversed(range(_DEPTH)):
        x = layers.Conv2DTranspose(_FILTERS * 2**level, 3, strides=2, padding="same")(x)
        x = _block(layers.Concatenate()([x, skips[level]]), _FILTERS * 2**level)
    return keras.Model(inputs, layers.Conv2D(num_ids, 1)(x))


class _Clock(keras.callbacks.Callback):
    def __init__(self, cpu_minutes: float) -> None:
        super().__init__()
        self._end = time.process_time() + 60 * cpu_minutes

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_training = time.process_time() > self._end


def train(
    train_part: tuple[np.ndarray, np.ndarray], validation_part: tuple[np.ndarray, np.ndarray], cpu_minutes: float
) -> keras.Model:
    """Trains for so long and keeps the epoch of the lowest validation loss.

    Args:
      train_part: Images uint8 [n, s, s, 3] and masks uint8 [n, s, s].
      validation_part: The same.
      cpu_minutes: Processor time of all cores; the epoch in which it is over is the last one.
    """
    keras.utils.set_random_seed(17)

    def mirror(image: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        turned = tf.random.uniform([]) < 0.5
        return tf.where(turned, image[:, ::-1], image), tf.where(turned, mask[:, ::-1], mask)

    images, masks = train_part
    data = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(len(images))
    data = data.map(mirror, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    model = build(images.shape[1], int(masks.max()) + 1)
    model.compile(
        keras.optimizers.RMSprop(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with tempfile.NamedTemporaryFile(suffix=".weights.h5") as best:
        saved = keras.callbacks.ModelCheckpoint(best.name, save_best_only=True, save_weights_only=True)
        validation_data = tf.data.Dataset.from_tensor_slices(tuple(validation_part)).batch(_BATCH_SIZE)
        model.fit(
            data, validation_data=validation_data, epochs=10_000, callbacks=[saved, _Clock(cpu_minutes)], verbose=2
        )
        model.load_weights(best.name)
    return model
