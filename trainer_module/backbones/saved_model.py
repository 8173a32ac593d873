"""A feature vector from a SavedModel, by directory or by handle of TensorFlow Hub or Kaggle Models; frozen only.

Such a model returns one vector per image and no feature map. The backbone presents it as a map of one position, so
Grad-CAM cannot distinguish positions: the heat map of `explain` is 1 everywhere, or 0 everywhere if nothing supports
the class.

Reference: https://www.tensorflow.org/hub/common_signatures/images, sections "Image input" and "Image feature vector".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer_module.backbones import Backbone, Directory, MissingWeightsError, Scaling, Weights, _hub

if TYPE_CHECKING:
    import keras

_CATALOGUE = "https://www.kaggle.com/models"


def _locate(weights: str) -> Path:
    """Returns a directory that contains a SavedModel; downloads that of a handle.

    Raises:
      MissingWeightsError: If it does not contain one, or the download fails.
    """
    path = _hub.directory(weights) if _hub.is_handle(weights) else Path(weights).expanduser()
    if not (path / _hub.MODEL_FILE).is_file():
        raise MissingWeightsError(
            f'There is no SavedModel in {weights!r}. With model.backbone = "saved_model", model.weights is the '
            f"directory of a feature-vector model that contains {_hub.MODEL_FILE}, or its handle "
            f"(google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2): choose one from {_CATALOGUE}."
        )
    return path


def _read(weights: str, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Wraps the SavedModel; nothing in it can be trained.

    Args:
      weights: A handle, or a directory that contains `saved_model.pb`. The model's signature `serving_default` or
        `default`, or else the loaded object itself, maps float32 [N, h, w, 3] to [N, d].
      pixels: float32 [N, h, w, 3], range [0, 1]; it must be a size that the SavedModel accepts.

    Returns:
      The vectors as a map, [N, 1, 1, d].

    Raises:
      MissingWeightsError: If the model does not exist, or does not map images to vectors.
    """
    from keras import layers

    from trainer_module.backbones import _frozen_graph

    vectors = _frozen_graph.from_saved_model(str(_locate(weights)), tuple(pixels.shape[1:3]))(pixels)
    return layers.Reshape([1, 1, vectors.shape[-1]], name="one_position")(vectors)


BACKBONE = Backbone(
    trainable=False,
    skip_strides=(),
    weights=(
        Weights(
            source=Directory(_CATALOGUE, locate=_locate, read=_read),
            image_size=None,
            preprocessing=Scaling(1 / 255),
            published_input=(0.0, 1.0),  # the convention of these collections
            licence=None,
            classifier_layer=None,
        ),
    ),
)
