"""A convolutional network, trained from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from trainer_module import features
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.section import ModelOptions, Rate

if TYPE_CHECKING:
    import keras

Filters = Annotated[int, Field(ge=1, le=4096)]
Convolution = Literal["standard", "separable", "mobilenet"]
Downsampling = Literal["max", "average", "stride"]
Value = TypeVar("Value", bound=str)


class Options(ModelOptions):
    """`[model]` with `name = "scratch_cnn"`."""

    head_dense_units: ClassVar[int] = 256
    head_dropout: ClassVar[float] = 0.5

    name: Literal["scratch_cnn"] = "scratch_cnn"
    blocks: tuple[Annotated[tuple[Filters, ...], Field(min_length=1)], ...] = Field(
        default=((32, 32), (64, 64), (128,)),
        min_length=1,
        description="Filters of every convolution, block by block; every block except the last one halves the side.",
    )
    convolution: Convolution | tuple[Convolution, ...] = Field(
        default="standard",
        description="`standard`, `separable` (depthwise and pointwise in one layer) or `mobilenet` (batch "
        "normalisation and ReLU after each of the two); a list has one value per block.",
    )
    downsampling: Downsampling | tuple[Downsampling, ...] = Field(
        default="max",
        description="How a block halves the side: `max` or `average` pooling, or `stride` 2 of its last convolution; a "
        "list has one value per block, of which the last is ignored.",
    )
    block_dropout: Rate = Field(default=0.25, description="Dropout after every block except the last.")

    @field_validator("convolution", "downsampling", mode="wrap")
    @classmethod
    def _one_value_or_list(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:  # it lists every error twice: for one value and for a list
            known = get_args(Convolution if info.field_name == "convolution" else Downsampling)
            raise ValueError(
                f"must be one of {', '.join(known)}, or a list of these with one value per block (given: {value!r})"
            ) from None

    @model_validator(mode="after")
    def _one_value_per_block(self) -> Options:
        for key, value in (("convolution", self.convolution), ("downsampling", self.downsampling)):
            if isinstance(value, tuple) and len(value) != len(self.blocks):
                raise ValueError(
                    f"{key} has {len(value)} values and blocks has {len(self.blocks)}: set one value for all blocks, "
                    "or a list with one value per block"
                )
        return self

    def smallest_image(self) -> int:
        """Returns the side of the smallest image, pixels, for which the last feature map has a position."""
        side = 1
        # Pooling rounds the halved side down, a convolution with "same" padding rounds it up.
        for downsampling in reversed(_per_block(self.downsampling, self)[:-1]):
            side = 2 * side - 1 if downsampling == "stride" else 2 * side
        return side

    def pyramid_strides(self) -> tuple[int, ...]:
        """The stride of the last map: every block except the last halves the side."""
        return (2 ** (len(self.blocks) - 1),)


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds the network to a normalised image tensor.

    Every convolution is 3x3, "same", without a bias (batch normalisation has one) and followed by batch normalisation
    and ReLU; `mobilenet` is a depthwise 3x3 and a pointwise 1x1 convolution, each followed by both. A block ends with
    2x2 pooling, or with stride 2 of its last convolution (the depthwise one of the two), and dropout; the last block
    keeps its resolution, because Grad-CAM explains its map.

    Args:
      options: Filters, kinds of layers and dropout rates.
      x: float32 [N, *image_size, channels], normalised.

    Returns:
      The last map, output of the layer `features`.

    Reference: Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556, section 2.1 (stacked 3x3 convolutions);
    Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3.2 (where batch normalisation goes);
    Howard et al. 2017, https://arxiv.org/abs/1704.04861, section 3.1 and figure 3 (`separable`, `mobilenet`);
    Springenberg et al. 2015, https://arxiv.org/abs/1412.6806, section 2 (stride instead of pooling).
    """
    from keras import layers

    pooling = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}
    kinds = zip(
        options.blocks,
        _per_block(options.convolution, options),
        _per_block(options.downsampling, options),
        strict=True,
    )
    for block, (filters_of_block, convolution, downsampling) in enumerate(kinds, start=1):
        last_block = block == len(options.blocks)
        for index, filters in enumerate(filters_of_block, start=1):
            last_of_block = index == len(filters_of_block)
            stride = 2 if downsampling == "stride" and last_of_block and not last_block else 1
            x = _convolution(x, convolution, filters, stride, f"block{block}", index)
            name = features.FEATURES_LAYER if last_block and last_of_block else f"block{block}_relu{index}"
            x = layers.ReLU(name=name)(x)
        if not last_block:
            if downsampling in pooling:
                x = pooling[downsampling](2, name=f"block{block}_pool")(x)
            x = layers.Dropout(options.block_dropout, name=f"block{block}_dropout")(x)
    return FeatureMaps(x, x)


def _convolution(
    x: keras.KerasTensor, kind: Convolution, filters: int, stride: int, block: str, index: int
) -> keras.KerasTensor:
    """Adds one convolution and its batch normalisation; the caller adds ReLU."""
    from keras import layers

    if kind == "mobilenet":
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{block}_depthwise{index}")(
            x
        )
        x = layers.BatchNormalization(momentum=0.9, name=f"{block}_depthwise_bn{index}")(x)
        x = layers.ReLU(name=f"{block}_depthwise_relu{index}")(x)
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{block}_pointwise{index}")(x)
    else:
        layer = layers.SeparableConv2D if kind == "separable" else layers.Conv2D
        x = layer(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{block}_conv{index}")(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{block}_bn{index}")(x)


def _per_block(value: Value | tuple[Value, ...], options: Options) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,) * len(options.blocks)


MODEL = ModelSpec(options=Options, build=_build)
