"""A feature vector from a SavedModel's folder, as TensorFlow Hub and Kaggle Models hand them out; frozen only.

Such a model gives one vector a picture and no map. It stands in the network as a map of one position, so Grad-CAM
cannot tell places apart: the `explain` signature answers a heat map that is 1 everywhere, or 0 everywhere where nothing
speaks for the class.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer_module import backbones, features

if TYPE_CHECKING:
    import keras

FEATURES = None
SKIPS = ()


def build(*, image_size: int, weights: str) -> keras.Model:
    """Wraps a SavedModel.

    Args:
      image_size: Side of the pictures, pixels; must be one that the SavedModel takes.
      weights: Folder with `saved_model.pb`. Its signature `serving_default` or `default`, or else the loaded object
        itself, takes float32 [N, s, s, 3] in [0, 1] (the convention of these collections) and gives [N, d].

    Returns:
      Model from float32 [N, s, s, 3], range [0, 255], to [N, 1, 1, d]; nothing in it can be trained.

    Raises:
      MissingWeightsError: If there is no such folder, or what is in it does not map pictures to vectors.

    Reference: https://www.tensorflow.org/hub/common_signatures/images, sections "Image input" and "Image feature
    vector".
    """
    import keras

    from trainer_module.backbones import _frozen_graph

    folder = Path(weights).expanduser()
    if not (folder / "saved_model.pb").is_file():
        raise backbones.MissingWeightsError(
            f'There is no SavedModel in {weights!r}. With model.backbone = "saved_model", model.weights is the folder '
            "of a feature-vector model that holds saved_model.pb: download one from https://www.kaggle.com/models and "
            "unpack it."
        )
    inputs = keras.Input([image_size, image_size, 3], dtype="float32", name="backbone_pixels")
    x = keras.layers.Rescaling(1 / 255, dtype="float32", name="preprocess")(inputs)
    x = _frozen_graph.from_saved_model(str(folder), image_size)(x)
    x = keras.layers.Reshape([1, 1, x.shape[-1]], name="one_position")(x)
    return keras.Model(inputs, x, name=features.BACKBONE_LAYER)
