"""A plain convolutional network, trained from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trainer_module import features
from trainer_module.section import ModelOptions

if TYPE_CHECKING:
    import keras

Filters = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class Options(ModelOptions):
    """`[model]` with `name = "scratch_cnn"`."""

    name: Literal["scratch_cnn"] = "scratch_cnn"
    blocks: tuple[tuple[Filters, ...], ...] = Field(
        default=((32, 32), (64, 64), (128,)),
        min_length=1,
        description="Filters of every convolution, block by block; a block halves the side at its end, but the last.",
    )
    block_dropout: Rate = Field(default=0.25, description="Dropout after every block but the last.")
    dense_units: int = Field(default=256, ge=1, le=65536, description="Size of the embedding.")
    head_dropout: Rate = Field(default=0.5, description="Dropout before the class layer.")

    def smallest_image(self) -> int:
        """Side of the smallest picture, pixels, that still leaves one position in the last feature map."""
        return int(2 ** (len(self.blocks) - 1))


def build(options: Options, *, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Adds the network to a normalised image tensor.

    Every convolution is 3x3, "same", without a bias (batch normalisation brings one) and followed by batch
    normalisation and ReLU. A block ends with 2x2 max pooling and dropout; the last block keeps its resolution, since
    that map is what Grad-CAM explains. Head: global average pooling, one dense layer, dropout, class layer.

    Args:
      options: Filters, dropout rates and head size.
      x: float32 [N, image_size, image_size, channels], normalised.
      num_classes: Number of classes.

    Returns:
      Logits, float32 [N, num_classes]. The layers `features` and `embedding` (see `trainer_module.features`) are
      part of the graph.

    Reference: Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556, section 2.1 (stacked 3x3 convolutions);
    Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3.2 (where batch normalisation goes);
    Lin et al. 2014, https://arxiv.org/abs/1312.4400, section 3.2 (global average pooling).
    """
    from keras import layers

    for block, filters_of_block in enumerate(options.blocks, start=1):
        last_block = block == len(options.blocks)
        for index, filters in enumerate(filters_of_block, start=1):
            last_convolution = last_block and index == len(filters_of_block)
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"block{block}_conv{index}")(x)
            x = layers.BatchNormalization(momentum=0.9, name=f"block{block}_bn{index}")(x)
            name = features.FEATURES_LAYER if last_convolution else f"block{block}_relu{index}"
            x = layers.ReLU(name=name)(x)
        if not last_block:
            x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
            x = layers.Dropout(options.block_dropout, name=f"block{block}_dropout")(x)

    x = layers.GlobalAveragePooling2D(name=features.POOLED_LAYER)(x)
    x = layers.Dense(options.dense_units, activation="relu", name=features.EMBEDDING_LAYER)(x)
    x = layers.Dropout(options.head_dropout, name="head_dropout")(x)
    return layers.Dense(num_classes, dtype="float32", name=features.LOGITS_LAYER)(x)
