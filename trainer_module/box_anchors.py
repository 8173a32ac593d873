"""Anchors of a detection head, and the layer that turns its deltas into boxes."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainer_module.boxes import grids
from trainer_module.boxes.coding import decode_deltas
from trainer_module.boxes.transforms import scale
from trainer_module.model_input import Size, size_of

# Those of the TF Object Detection API: with them, deltas of usual boxes have a standard deviation of about 1.
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
PER_LOCATION = 9  # three sizes and three aspect ratios, the defaults of `grids.anchors`


def anchors(image_size: int | Size, strides: tuple[int, ...]) -> tf.Tensor:
    """Returns the anchors around all locations of feature maps.

    Args:
      image_size: Side of the model input, or height and width, pixels.
      strides: Of the feature maps, pixels.

    Returns:
      float32 [A, 4], pixels, `PER_LOCATION` at every location: see `grids.anchors`.
    """
    return tf.constant(grids.anchors(size_of(image_size), strides))


@keras.saving.register_keras_serializable(package="tfx_vision")
class DecodeDeltas(keras.layers.Layer):
    """Decodes boxes: deltas to anchors, float32 [N, A, 4] → normalised (ymin, xmin, ymax, xmax), float32 [N, A, 4]."""

    def __init__(self, image_size: int | Size, strides: tuple[int, ...], **keywords: object) -> None:
        """Args: size of the model input and strides of the feature maps, pixels; arguments of Keras's layers."""
        super().__init__(**keywords | {"dtype": "float32", "trainable": False})
        self._config = {"image_size": size_of(image_size), "strides": tuple(strides)}
        self._anchors = anchors(image_size, tuple(strides))
        self._factors = 1.0 / tf.constant(size_of(image_size), tf.float32)

    def call(self, deltas: tf.Tensor) -> tf.Tensor:
        """Computes the boxes; they are not clipped to the image."""
        return scale(decode_deltas(deltas, self._anchors, _WEIGHTS), self._factors)

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {**super().get_config(), **self._config}
