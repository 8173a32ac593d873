"""Test-time augmentation: predictions are averages over changed copies of an image."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer_module import keras_file, tasks
from trainer_module.any_size import accepting_any_size
from trainer_module.model_input import Size
from trainer_module.options import TrainerOptions


class _View(NamedTuple):
    """A changed copy of the model input."""

    size: Size
    is_mirrored: bool


def load(path: str, options: TrainerOptions) -> keras.Model:
    """Loads the network that predicts from the `.keras` file, which contains it without test-time augmentation."""
    return averaged(keras_file.load(path), options)


def averaged(model: keras.Model, options: TrainerOptions) -> keras.Model:
    """Returns the network that predicts: the outputs are averages over the views of `[test_time_augmentation]`.

    The outputs of a classifier are logits, so probabilities are geometric means, normalised. All layers of the network
    keep their names, and are those that see the unchanged image: of the average, Grad-CAM explains their part.

    Args:
      model: From `network.build`, trained.
      options: `test_time_augmentation`, `transform`, `model` and `task` are read.

    Returns:
      The model itself if there is one view; else one with the same weights, inputs and shapes of outputs. It is not
      for saving: Keras stores layers that two models share twice.

    Reference: Krizhevsky et al. 2012, section 4.1 (mirrored copies); Chen et al. 2017,
    https://arxiv.org/abs/1606.00915, section 4.1.2 (several scales).
    """
    views = _views(options)
    if not views:
        return model
    restore = tasks.get(options.task.name).restore_outputs
    assert restore is not None  # `TrainerOptions` rejects other tasks
    layer = _AverageOfViews(model, views, restore)
    return keras.Model(model.input, layer(model.input, model.output), name=model.name)


def _views(options: TrainerOptions) -> list[_View]:
    """Lists the views without the unchanged image."""
    mirrored = (False, True) if options.test_time_augmentation.horizontal_flip else (False,)
    return [_View(*view) for view in itertools.product(options.view_sizes, mirrored)][1:]


class _AverageOfViews(keras.layers.Layer):
    """Averages outputs of a network with those for other views of its input."""

    def __init__(
        self, network: keras.Model, views: Sequence[_View], restore: Callable[[tf.Tensor, bool, Size], tf.Tensor]
    ) -> None:
        super().__init__(name="average_of_views", dtype="float32")
        self._network, self._views, self._restore = network, tuple(views), restore

    def call(self, pixels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        size: Size = tuple(pixels.shape[1:3])
        total = outputs
        for view in self._views:
            # One view after another: together, their feature maps would need several times the memory.
            with tf.control_dependencies([total]):
                # Without antialiasing, as augmentation zooms.
                seen = tf.identity(pixels) if view.size == size else tf.image.resize(pixels, view.size)
                seen = tf.reverse(seen, [2]) if view.is_mirrored else seen
                with accepting_any_size(self._network) if view.size != size else contextlib.nullcontext():
                    other = self._network(seen, training=False)
                total += self._restore(tf.cast(other, outputs.dtype), view.is_mirrored, size)
        return total / (1 + len(self._views))

    def compute_output_spec(self, pixels: Any, outputs: keras.KerasTensor) -> keras.KerasTensor:
        # Without this, Keras would trace the network for every view.
        return keras.KerasTensor(outputs.shape, outputs.dtype)
