"""ResNet-50, first version.

Reference: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module.backbones import _weights

if TYPE_CHECKING:
    import keras

FEATURES = 2048
SKIPS = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out")

_SOURCE = _weights.Source(
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "4d473c1dd8becc155b73f8504c6f6626",
)
# Means of blue, green, red over ImageNet, for pixels in [0, 255]: these weights come from Caffe
# (`keras.applications.imagenet_utils.preprocess_input`, mode "caffe").
_CAFFE_MEAN = (103.939, 116.779, 123.68)


def build(*, image_size: int, weights: str) -> keras.Model:
    """Builds the network.

    Args:
      image_size: Side of the pictures, pixels; at least 32.
      weights: "imagenet", "none" or a path.

    Returns:
      Model from float32 [N, s, s, 3], red first, range [0, 255], to [N, s/32, s/32, 2048].

    Raises:
      MissingWeightsError: If the weights are not there.
    """
    import keras

    def preprocess(pixels: keras.KerasTensor) -> keras.KerasTensor:
        blue_first = keras.ops.flip(pixels, axis=-1)
        centre = keras.layers.Normalization(
            mean=_CAFFE_MEAN, variance=(1.0, 1.0, 1.0), dtype="float32", name="preprocess"
        )
        return centre(blue_first)

    return _weights.assemble(
        _weights.of_keras(keras.applications.ResNet50, image_size),
        image_size=image_size,
        weights_path=_weights.path_of(weights, _SOURCE),
        preprocess=preprocess,
        feature_channels=FEATURES,
    )
