"""An encoder-decoder with skip connections, whose output has the size of the image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from trainer_module import backbones, features
from trainer_module.model_input import Size
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.models._pretrained import learn_statistics_soon, train_last
from trainer_module.section import ModelOptions, Rate

if TYPE_CHECKING:
    import keras

# A backbone halves the image five times; the decoder reads the maps after the first four.
_BACKBONE_DEPTH = 5
_SKIP_STRIDES = (2, 4, 8, 16)


class Options(ModelOptions):
    """`[model]` with `name = "unet"`."""

    name: Literal["unet"] = "unet"
    depth: int = Field(
        default=4, ge=1, le=7, description="How often the encoder halves the image; with a backbone it is 5."
    )
    filters: int = Field(
        default=32, ge=1, le=1024, description="Of the convolutions at full size; every halving doubles them."
    )
    block_dropout: Rate = Field(default=0.1, description="Dropout at the end of every encoder level and at the bottom.")
    encoder: str = Field(default="", description="A backbone's name; empty for an encoder from random weights.")
    encoder_weights: str = Field(
        default=backbones.IMAGENET, min_length=1, description="The backbone's weights: `imagenet`, a file or `none`."
    )
    encoder_training: Literal["frozen_first", "from_start"] = Field(
        default="frozen_first",
        description="`frozen_first` trains the decoder alone, and then the encoder's last layers (see "
        "`[fine_tuning]`); `from_start` trains both together. With `none`, always from the start.",
    )

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, value: str) -> str:
        with_maps = [name for name in backbones.names() if backbones.get(name).skip_strides == _SKIP_STRIDES]
        if value and value not in with_maps:
            raise ValueError(f"the backbone `{value}` cannot be an encoder; known: {', '.join(with_maps)}")
        return value

    def smallest_image(self) -> int:
        """Returns the side of the smallest image that the encoder accepts, pixels."""
        return backbones.get(self.encoder).smallest_image if self.encoder else 1

    def has_backbone(self) -> bool:
        """Whether the encoder is a pre-trained backbone, which takes pixels and normalizes them itself."""
        return bool(self.encoder)

    def check_weights(self, image_size: Size) -> None:
        """Checks that the weights of the encoder are available."""
        if self.encoder:
            with _names_of_keys():
                backbones.get(self.encoder).check_weights(image_size=image_size, weights=self.encoder_weights)

    def begins_frozen(self) -> bool:
        """Whether the decoder is trained first; not with an encoder of random weights."""
        return self._pre_trained() and self.encoder_training == "frozen_first"

    def can_unfreeze(self) -> bool:
        """Whether there is a pre-trained encoder, which fine-tuning can train."""
        return self._pre_trained()

    def _pre_trained(self) -> bool:
        return bool(self.encoder) and self.encoder_weights != backbones.RANDOM

    def pyramid_strides(self) -> tuple[int, ...]:
        """The stride of the bottleneck."""
        return (2 ** (_BACKBONE_DEPTH if self.encoder else self.depth),)

    def accepts_any_size(self) -> bool:
        """All layers slide over the image."""
        return True

    def with_random_weights(self) -> Options:
        """Returns the same network without pre-trained weights."""
        return self.model_copy(update={"encoder_weights": backbones.RANDOM})


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds the network to an image tensor.

    Two 3x3 convolutions per level, each followed by batch normalization and ReLU; 2x2 max pooling in the encoder, 2x2
    up-convolution and a skip connection in the decoder. Unlike in the paper, convolutions are padded ("same"): every
    pixel of the image has a position in the output. A side that cannot be halved often enough is padded with zeros
    (the mean colour, after normalization by the dataset), and the output is cropped.

    A backbone has no map at full size: two convolutions on the pixels replace it.

    Args:
      options: Depth, filters, dropout, encoder.
      x: float32 [N, height, width, channels], static but for N; normalised, or pixels with range [0, 255] where
        `options.has_backbone()`.

    Returns:
      The bottleneck, output of the layer `features`, and the decoder's map [N, height, width, c]. With a backbone, the
      layer `backbone` is the encoder, without its full-size map.

    Raises:
      MissingWeightsError: If the weights of a backbone are not available.

    Reference: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, section 2 and figure 1; Ioffe & Szegedy 2015,
    https://arxiv.org/abs/1502.03167, section 3.2 (where batch normalisation goes).
    """
    from keras import layers

    depth = _BACKBONE_DEPTH if options.encoder else options.depth
    borders = tuple(_border(side, 2**depth) for side in x.shape[1:3])
    if any(map(sum, borders)):
        x = layers.ZeroPadding2D(borders, name="pad")(x)
    x, skips = _backbone(options, x) if options.encoder else _encoder(options, x)
    bottleneck = x
    x = layers.Dropout(options.block_dropout, name="bottleneck_dropout")(x)
    for level in reversed(range(depth)):
        filters = options.filters * 2**level
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([skips[level], x])
        x = _convolutions(x, filters, f"decoder{level}")
    if any(map(sum, borders)):
        x = layers.Cropping2D(borders, name="crop")(x)
    return FeatureMaps(bottleneck, x)


def _encoder(options: Options, x: keras.KerasTensor) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    """Returns the coarsest map, and the others by level (number of halvings)."""
    from keras import layers

    skips = []
    for level in range(options.depth):
        skips.append(_convolutions(x, options.filters * 2**level, f"encoder{level}"))
        x = layers.MaxPooling2D(2, name=f"pool{level}")(skips[level])
        x = layers.Dropout(options.block_dropout, name=f"dropout{level}")(x)
    x = _convolutions(x, options.filters * 2**options.depth, "bottom")
    return layers.Identity(name=features.FEATURES_LAYER)(x), skips


def _backbone(options: Options, x: keras.KerasTensor) -> tuple[keras.KerasTensor, list[keras.KerasTensor]]:
    """Does the same with a backbone; a pre-trained one is frozen, or trained except for batch normalization."""
    import keras
    from keras import layers

    backbone = backbones.get(options.encoder)
    with _names_of_keys():
        whole = backbone.build(image_size=tuple(x.shape[1:3]), weights=options.encoder_weights)
    base = keras.Model(whole.input, [*backbone.skips(whole), whole.output], name=features.BACKBONE_LAYER)
    if options.can_unfreeze():
        train_last(base, 0 if options.begins_frozen() else len(base.layers))
    else:
        learn_statistics_soon(base)
    pixels = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="full_size")(x)
    *skips, x = base(x)
    full = _convolutions(pixels, options.filters, "encoder0")
    return layers.Identity(name=features.FEATURES_LAYER)(x), [full, *skips]


@contextlib.contextmanager
def _names_of_keys() -> Iterator[None]:
    """Replaces the key of `transfer` in an error with that of this model."""
    try:
        yield
    except backbones.MissingWeightsError as error:
        raise backbones.MissingWeightsError(str(error).replace("model.weights", "model.encoder_weights")) from None


def _convolutions(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    from keras import layers

    for index in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn{index}")(x)
        x = layers.ReLU(name=f"{name}_relu{index}")(x)
    return x


def _border(side: int, multiple: int) -> tuple[int, int]:
    """Returns the padding before and after that extends the side to a multiple."""
    missing = -side % multiple
    return missing // 2, missing - missing // 2


MODEL = ModelSpec(options=Options, build=_build)
