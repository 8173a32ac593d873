"""A feature vector from a SavedModel's directory, as TensorFlow Hub and Kaggle Models offer them; frozen only.

Such a model returns one vector per image and no feature map. The backbone presents it as a map of one position, so
Grad-CAM cannot distinguish positions: the heat map of `explain` is 1 everywhere, or 0 everywhere if nothing supports
the class.

Reference: https://www.tensorflow.org/hub/common_signatures/images, sections "Image input" and "Image feature vector".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer_module.backbones import Backbone, Directory, MissingWeightsError, Scaling, Weights

if TYPE_CHECKING:
    import keras

_CATALOGUE = "https://www.kaggle.com/models"


def _check(directory: str) -> None:
    """Checks that a directory contains a SavedModel.

    Raises:
      MissingWeightsError: If it does not.
    """
    if not (Path(directory).expanduser() / "saved_model.pb").is_file():
        raise MissingWeightsError(
            f'There is no SavedModel in {directory!r}. With model.backbone = "saved_model", model.weights is the '
            f"directory of a feature-vector model that contains saved_model.pb: download one from {_CATALOGUE} and "
            "unpack it."
        )


def _read(directory: str, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Wraps the SavedModel; nothing in it can be trained.

    Args:
      directory: Contains `saved_model.pb`. Its signature `serving_default` or `default`, or else the loaded object
        itself, maps float32 [N, s, s, 3] to [N, d].
      pixels: float32 [N, s, s, 3], range [0, 1]; s must be a size that the SavedModel accepts.

    Returns:
      The vectors as a map, [N, 1, 1, d].

    Raises:
      MissingWeightsError: If the directory does not exist, or its model does not map images to vectors.
    """
    from keras import layers

    from trainer_module.backbones import _frozen_graph

    _check(directory)
    vectors = _frozen_graph.from_saved_model(str(Path(directory).expanduser()), pixels.shape[1])(pixels)
    return layers.Reshape([1, 1, vectors.shape[-1]], name="one_position")(vectors)


BACKBONE = Backbone(
    trainable=False,
    skip_strides=(),
    weights=(
        Weights(
            source=Directory(_CATALOGUE, check=_check, read=_read),
            image_size=None,
            preprocessing=Scaling(1 / 255),
            published_input=(0.0, 1.0),  # the convention of these collections
            licence=None,
            classifier_layer=None,
        ),
    ),
)
