"""DenseNet-121.

Reference: Huang et al. 2017, https://arxiv.org/abs/1608.06993, table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module.backbones import _weights

if TYPE_CHECKING:
    import keras

FEATURES = 1024
# What a transition layer activates is the whole dense block before it, still at the block's own resolution.
SKIPS = ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu")

_SOURCE = _weights.Source(
    "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
    "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "30ee3e1110167f948a6b9946edeeb738",
)


def build(*, image_size: int, weights: str) -> keras.Model:
    """Builds the network.

    Args:
      image_size: Side of the pictures, pixels; at least 32.
      weights: "imagenet", "none" or a path.

    Returns:
      Model from float32 [N, s, s, 3], range [0, 255], to [N, s/32, s/32, 1024].

    Raises:
      MissingWeightsError: If the weights are not there.
    """
    import keras

    return _weights.assemble(
        _weights.of_keras(keras.applications.DenseNet121, image_size),
        image_size=image_size,
        weights_path=_weights.path_of(weights, _SOURCE),
        preprocess=keras.layers.Normalization(
            mean=[255.0 * mean for mean in _weights.IMAGENET_MEAN],
            variance=[(255.0 * deviation) ** 2 for deviation in _weights.IMAGENET_DEVIATION],
            dtype="float32",
            name="preprocess",
        ),
        feature_channels=FEATURES,
    )
