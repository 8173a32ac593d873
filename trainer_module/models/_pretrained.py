"""What models with a pre-trained base share: it begins frozen, and its last layers can be let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module import features

if TYPE_CHECKING:
    import keras


def learn_statistics_soon(base: keras.Model) -> None:
    """Makes batch normalisation of random weights average over ten steps.

    The networks average over a hundred to a thousand, for ImageNet's epochs of ten thousand steps. After a few hundred,
    as many as a small data set has in all its epochs, what evaluation normalises by would still be what it began with.

    Args:
      base: Lies flat, without models in it.
    """
    from keras.layers import BatchNormalization

    for layer in base.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum = 0.9


def unfreeze(model: keras.Model, num_layers: int) -> None:
    """Lets the last layers of a model's base be trained, batch normalisation excepted.

    Args:
      model: Has the base as its layer `features.BACKBONE_LAYER`.
      num_layers: As `train_last` takes it.
    """
    train_last(model.get_layer(features.BACKBONE_LAYER), num_layers)


def train_last(base: keras.Model, num_layers: int) -> None:
    """Lets the last layers of a pre-trained network be trained, batch normalisation excepted.

    The statistics of ImageNet are better than those of a small data set's batches, and a layer that is not trainable
    normalises by what it has learnt even while training: Keras hands `training=True` of the outer model down to the
    base, whatever it was called with when the graph was built.

    Args:
      base: Lies flat, without models in it.
      num_layers: Layers, counted from the end, whether or not they have weights; 0 freezes the whole, and more than
        there are is all of them.

    Reference: https://keras.io/guides/transfer_learning/, section "Fine-tuning".
    """
    from keras.layers import BatchNormalization

    base.trainable = True
    first = len(base.layers) - num_layers
    for index, layer in enumerate(base.layers):
        layer.trainable = index >= first and not isinstance(layer, BatchNormalization)
