"""An encoder-decoder with skip connections: a class for every pixel."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from trainer_module import features
from trainer_module.section import ModelOptions

if TYPE_CHECKING:
    import keras

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]

_BACKBONES = "trainer_module.backbones"
# A backbone halves the picture five times, and its SKIPS are the maps after the first four.
_BACKBONE_DEPTH = 5


class Options(ModelOptions):
    """`[model]` with `name = "unet"`."""

    task: ClassVar[str] = "segmentation"

    name: Literal["unet"] = "unet"
    depth: int = Field(
        default=4, ge=1, le=7, description="How often the encoder halves the picture; with a backbone it is 5."
    )
    filters: int = Field(
        default=32, ge=1, le=1024, description="Of the convolutions at full size; every halving doubles them."
    )
    block_dropout: Rate = Field(default=0.1, description="Dropout at the end of every encoder level and at the bottom.")
    encoder: str = Field(default="", description="A backbone's name; empty for an encoder from random weights.")
    encoder_weights: str = Field(
        default="imagenet", description="The backbone's weights: `imagenet`, a file or `none`."
    )

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, value: str) -> str:
        try:
            known = not value or importlib.util.find_spec(f"{_BACKBONES}.{value}") is not None
        except (ModuleNotFoundError, ValueError):
            known = False
        if not known:
            raise ValueError(f"there is no backbone `{value}`")
        return value

    def has_backbone(self) -> bool:
        """Whether the encoder is a pre-trained network; it is trained with the decoder from the start."""
        return bool(self.encoder)

    def with_random_weights(self) -> Options:
        """The same network, its encoder without pre-trained weights."""
        return self.model_copy(update={"encoder_weights": "none"})


def build(options: Options, *, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Adds the network to an image tensor.

    Two 3x3 convolutions a level, each followed by batch normalisation and ReLU; 2x2 max pooling on the way down,
    2x2 up-convolution and the encoder's map of the same size on the way up. Unlike the paper's, convolutions keep the
    size ("same"), so that every pixel of the picture gets a class. A side that cannot be halved often enough is
    padded with zeros (the mean colour, after normalisation by the data set) and the result cropped.

    Args:
      options: Depth, filters, dropout, encoder.
      x: float32 [N, height, width, channels], static but for N; normalised, or pixels with range [0, 255] where
        `options.has_backbone()`.
      num_classes: Number of classes.

    Returns:
      Logits, float32 [N, height, width, num_classes]. The layer `bottleneck` (see `trainer_module.features`) is part
      of the graph.

    Raises:
      ValueError: If the backbone does not end with a spatial map.

    Reference: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597, section 2 and figure 1; Ioffe & Szegedy 2015,
    https://arxiv.org/abs/1502.03167, section 3.2 (where batch normalisation goes).
    """
    from keras import layers

    depth = _BACKBONE_DEPTH if options.encoder else options.depth
    borders = tuple(_border(side, 2**depth) for side in x.shape[1:3])
    if any(map(sum, borders)):
        x = layers.ZeroPadding2D(borders, name="pad")(x)
    x, skips = _backbone(options, x) if options.encoder else _encoder(options, x)
    x = layers.Dropout(options.block_dropout, name="bottleneck_dropout")(x)
    for level in reversed(range(depth)):
        filters = options.filters * 2**level
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{level}")(x)
        if level in skips:
            x = layers.Concatenate(name=f"skip{level}")([skips[level], x])
        x = _convolutions(x, filters, f"decoder{level}")
    if any(map(sum, borders)):
        x = layers.Cropping2D(borders, name="crop")(x)
    return layers.Conv2D(num_classes, 1, dtype="float32", name=features.LOGITS_LAYER)(x)


def _encoder(options: Options, x: keras.KerasTensor) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """The coarsest map, and by level (number of halvings) the others."""
    from keras import layers

    skips = {}
    for level in range(options.depth):
        skips[level] = _convolutions(x, options.filters * 2**level, f"encoder{level}")
        x = layers.MaxPooling2D(2, name=f"pool{level}")(skips[level])
        x = layers.Dropout(options.block_dropout, name=f"dropout{level}")(x)
    x = _convolutions(x, options.filters * 2**options.depth, "bottom")
    return layers.Identity(name=features.BOTTLENECK_LAYER)(x), skips


def _backbone(options: Options, x: keras.KerasTensor) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """The same of a backbone, which has no map at full size."""
    import keras
    from keras import layers

    module = importlib.import_module(f"{_BACKBONES}.{options.encoder}")
    whole = module.build(image_size=x.shape[1], weights=options.encoder_weights)
    if len(whole.output.shape) != 4:
        raise ValueError(f"Backbone {options.encoder} must give a map [N, h, w, c]. Received: {whole.output.shape}.")
    if x.shape[-1] == 1 and whole.input_shape[-1] == 3:
        x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    maps = [whole.get_layer(name).output for name in module.SKIPS]
    *skips, x = keras.Model(whole.inputs, [*maps, whole.output], name="encoder")(x)
    return layers.Identity(name=features.BOTTLENECK_LAYER)(x), dict(enumerate(skips, start=1))


def _convolutions(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    from keras import layers

    for index in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn{index}")(x)
        x = layers.ReLU(name=f"{name}_relu{index}")(x)
    return x


def _border(side: int, multiple: int) -> tuple[int, int]:
    """Pixels to add before and behind, so that the side becomes a multiple."""
    missing = -side % multiple
    return missing // 2, missing - missing // 2
