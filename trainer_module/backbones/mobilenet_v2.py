"""MobileNetV2, width 1.0.

Reference: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module.backbones import _weights

if TYPE_CHECKING:
    import keras

FEATURES = 1280
SKIPS = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu")

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{}_no_top.h5"
# Weights were published for each of these; other sizes take those of 224.
_TRAINED_SIZES = (96, 128, 160, 192, 224)


def build(*, image_size: int, weights: str) -> keras.Model:
    """Builds the network.

    Args:
      image_size: Side of the pictures, pixels; at least 32.
      weights: "imagenet", "none" or a path.

    Returns:
      Model from float32 [N, s, s, 3], range [0, 255], to [N, s/32, s/32, 1280].

    Raises:
      MissingWeightsError: If the weights are not there.
    """
    import keras

    trained_size = image_size if image_size in _TRAINED_SIZES else 224
    return _weights.assemble(
        _weights.of_keras(keras.applications.MobileNetV2, image_size),
        image_size=image_size,
        weights_path=_weights.path_of(weights, _weights.Source(_URL + _FILE.format(trained_size))),
        preprocess=keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="preprocess"),
        feature_channels=FEATURES,
    )
