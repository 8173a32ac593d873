"""Models on a backbone: their common options, and how the backbone begins frozen and its last layers are unfrozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from trainer_module import backbones, features
from trainer_module.model_input import Size
from trainer_module.section import ModelOptions

if TYPE_CHECKING:
    import keras


class BackboneOptions(ModelOptions):
    """The keys of `[model]` of every model that begins with a backbone."""

    backbone: str = Field(default="mobilenet_v2", description="The pre-trained network.")
    weights: str = Field(
        default=backbones.IMAGENET, min_length=1, description="`imagenet`, `none` (random), or a weights file's path."
    )

    def smallest_image(self) -> int:
        """Returns the side of the smallest image that the backbone accepts, pixels."""
        return backbones.get(self.backbone).smallest_image

    def has_backbone(self) -> bool:
        """Always true."""
        return True

    def with_random_weights(self) -> Self:
        """Returns the same network with random weights; a SavedModel keeps its own."""
        trainable = backbones.get(self.backbone).trainable
        return self.model_copy(update={"weights": backbones.RANDOM}) if trainable else self

    def check_weights(self, image_size: Size) -> None:
        """Checks that the weights of the backbone are available."""
        backbones.get(self.backbone).check_weights(image_size=image_size, weights=self.weights)

    def begins_frozen(self) -> bool:
        """Whether the head is trained first; not with a backbone of random weights."""
        return self.weights != backbones.RANDOM

    def can_unfreeze(self) -> bool:
        """Whether the backbone has pre-trained layers that fine-tuning can train."""
        return self.weights != backbones.RANDOM and backbones.get(self.backbone).trainable


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
