"""Positions of a detection head, and the layer that turns its distances into boxes."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainer_module.boxes import grids
from trainer_module.boxes.coding import decode_distances
from trainer_module.boxes.transforms import scale
from trainer_module.model_input import Size, size_of

_LARGEST_LOGARITHM = 8.0  # the box is then larger than any image, and its area is still finite


class Grid(NamedTuple):
    """Positions of a head: L on several levels.

    Attributes:
      locations: float32 [L, 2], (y, x), pixels of the model input.
      strides: float32 [L], pixels.
      anchors: float32 [L, 4], squares with which objects are assigned to positions, pixels.
      num_locations: Positions of each level; their sum is L.
      image_size: Height and width of the model input, pixels.
    """

    locations: tf.Tensor
    strides: tf.Tensor
    anchors: tf.Tensor
    num_locations: tuple[int, ...]
    image_size: Size

    @classmethod
    def of(cls, image_size: int | Size, strides: tuple[int, ...]) -> Grid:
        """The positions of feature maps with these strides; the size of the model input is a side or a pair."""
        size = size_of(image_size)
        return cls(
            tf.constant(grids.locations(size, strides)),
            tf.constant(grids.location_strides(size, strides)),
            tf.constant(grids.square_anchors(size, strides)),
            tuple(grids.num_locations(size, strides)),
            size,
        )


@keras.saving.register_keras_serializable(package="tfx_vision")
class DecodeBoxes(keras.layers.Layer):
    """Decodes the logarithms of distances to the sides of boxes.

    float32 [N, L, 4], distances in strides → normalised boxes (ymin, xmin, ymax, xmax), float32 [N, L, 4].
    """

    def __init__(self, image_size: int | Size, strides: tuple[int, ...], **keywords: object) -> None:
        """Args: size of the model input and strides of the feature maps, pixels; arguments of Keras's layers."""
        super().__init__(**keywords | {"dtype": "float32", "trainable": False})
        self._config = {"image_size": size_of(image_size), "strides": tuple(strides)}
        self._grid = Grid.of(image_size, tuple(strides))

    def call(self, logarithms: tf.Tensor) -> tf.Tensor:
        """Computes the boxes; they are not clipped to the image."""
        distances = tf.exp(tf.minimum(logarithms, _LARGEST_LOGARITHM))
        boxes = decode_distances(distances, self._grid.locations, self._grid.strides)
        return scale(boxes, 1.0 / tf.constant(self._grid.image_size, tf.float32))

    def get_config(self) -> dict[str, object]:
        """The arguments of the constructor."""
        return {**super().get_config(), **self._config}
