"""EfficientNet-B0.

Reference: Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module.backbones import _weights

if TYPE_CHECKING:
    import keras

FEATURES = 1280
SKIPS = (
    "block2a_expand_activation",
    "block3a_expand_activation",
    "block4a_expand_activation",
    "block6a_expand_activation",
)

_SOURCE = _weights.Source(
    "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"
)


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

    model = _weights.assemble(
        _weights.of_keras(keras.applications.EfficientNetB0, image_size),
        image_size=image_size,
        weights_path=_weights.path_of(weights, _SOURCE),
        preprocess=lambda pixels: pixels,  # the network begins with its own
        feature_channels=FEATURES,
    )
    # The published file has deviations where variances belong; Keras mends that with one more layer, but only where it
    # downloads the file itself, and random weights have no statistics at all
    # (https://github.com/tensorflow/tensorflow/issues/49930). Here they are set outright, whatever was loaded.
    (normalization,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
    normalization.adapt_mean.assign(_weights.IMAGENET_MEAN)
    normalization.adapt_variance.assign([deviation**2 for deviation in _weights.IMAGENET_DEVIATION])
    normalization.finalize_state()
    # Stochastic depth would make features differ from step to step even where the network is frozen.
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model
