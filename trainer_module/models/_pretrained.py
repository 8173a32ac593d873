"""The backbone of a model: it begins frozen, and its last layers can be unfrozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module import features

if TYPE_CHECKING:
    import keras


def learn_statistics_soon(base: keras.Model) -> None:
    """Makes batch normalisation with random weights average over ten steps.

    The networks average over 100 to 1,000 steps, because an epoch on ImageNet has 10,000 of them. A small dataset has a
    few hundred steps in all its epochs, after which evaluation would still normalise by the initial statistics. `base`
    contains its layers flat, without nested models.
    """
    from keras.layers import BatchNormalization

    for layer in base.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum = 0.9


def unfreeze(model: keras.Model, num_layers: int) -> None:
    """Calls `train_last` for the backbone of a model, its layer `features.BACKBONE_LAYER`."""
    train_last(model.get_layer(features.BACKBONE_LAYER), num_layers)


def train_last(base: keras.Model, num_layers: int) -> None:
    """Makes the last layers of a pre-trained network trainable, except batch normalisation.

    The statistics of ImageNet are better than those of batches from a small dataset. A layer that is not trainable
    normalises by its moving statistics even in training, although Keras passes `training=True` of the outer model down
    to the backbone, regardless of how it was called when the graph was built.

    Args:
      base: Contains its layers flat, without nested models.
      num_layers: Layers from the end, whether or not they have weights; 0 freezes all layers, and a number larger than
        that of the layers unfreezes all.

    Reference: https://keras.io/guides/transfer_learning/, section "Fine-tuning".
    """
    from keras.layers import BatchNormalization

    base.trainable = True
    first = len(base.layers) - num_layers
    for index, layer in enumerate(base.layers):
        layer.trainable = index >= first and not isinstance(layer, BatchNormalization)
