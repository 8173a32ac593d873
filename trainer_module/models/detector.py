"""A feature pyramid on a pre-trained network: maps of several scales for heads that look for objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from trainer_module import backbones, features
from trainer_module.group_normalization import normalize
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.models._pretrained import BackboneOptions, learn_statistics_soon, train_last

if TYPE_CHECKING:
    import keras


class Options(BackboneOptions):
    """`[model]` with `name = "detector"`."""

    name: Literal["detector"] = "detector"
    backbone_training: Literal["frozen_first", "from_start"] = Field(
        default="frozen_first",
        description="`frozen_first` trains the pyramid and the head alone, and then the backbone's last layers as "
        "`[fine_tuning]` sets; `from_start` trains all together. With `none`, always from the start.",
    )
    finest_stride: Literal[4, 8, 16, 32] = Field(
        default=8, description="Pixels between the positions of the finest map; small objects need small strides."
    )
    coarsest_stride: Literal[32, 64, 128] = Field(
        default=64, description="Pixels between the positions of the coarsest map; each map halves the one before."
    )
    channels: int = Field(default=96, ge=1, le=1024, description="Channels of every map of the pyramid.")

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        with_maps = [name for name in backbones.names() if {4, 8, 16} <= {*backbones.get(name).skip_strides}]
        if value not in with_maps:
            raise ValueError(f"`{value}` has no feature maps for a pyramid; known: {', '.join(with_maps)}")
        return value

    def begins_frozen(self) -> bool:
        """Whether pyramid and head are trained first; a backbone of random weights would teach them nothing."""
        return self.can_unfreeze() and self.backbone_training == "frozen_first"

    def pyramid_strides(self) -> tuple[int, ...]:
        """The strides from the finest to the coarsest map."""
        return tuple(2**power for power in range(2, 8) if self.finest_stride <= 2**power <= self.coarsest_stride)


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds a backbone and a feature pyramid to a tensor of pixels.

    The backbone's maps are brought to `channels` by 1x1 convolutions; from coarse to fine, each enlarged map is added
    to the next finer one, and a separable 3x3 convolution smooths the sum. Maps coarser than the backbone's last one
    come from it by separable convolutions with stride 2. All convolutions have group normalisation.

    Args:
      options: Backbone, strides, channels.
      x: float32 [N, *image_size, 3], range [0, 255]: the backbone normalises.

    Returns:
      The backbone's last map (layer `features`) and the pyramid.

    Raises:
      MissingWeightsError: If the weights are not available.

    Reference: Lin et al. 2017, https://arxiv.org/abs/1612.03144, section 3 (the pyramid); Lin et al. 2017,
    https://arxiv.org/abs/1708.02002, section 4 (coarser maps); Tan et al. 2020, https://arxiv.org/abs/1911.09070,
    section 4 (separable convolutions).
    """
    import keras
    from keras import layers

    record = backbones.get(options.backbone)
    whole = record.build(image_size=tuple(x.shape[1:3]), weights=options.weights)
    finer = [
        skip
        for stride, skip in zip(record.skip_strides, record.skips(whole), strict=True)
        if stride >= options.finest_stride
    ]
    base = keras.Model(whole.input, [*finer, whole.output], name=features.BACKBONE_LAYER)
    if options.can_unfreeze():
        train_last(base, 0 if options.begins_frozen() else len(base.layers))
    else:
        learn_statistics_soon(base)
    *finer, last = base(x) if finer else [base(x)]
    encoded = layers.Identity(name=features.FEATURES_LAYER)(last)

    strides = options.pyramid_strides()
    inputs = dict(zip(strides, [*finer, encoded], strict=False))
    pyramid = {}
    above = None
    for stride in sorted(inputs, reverse=True):
        lateral = layers.Conv2D(options.channels, 1, use_bias=False, name=f"lateral{stride}")(inputs[stride])
        lateral = normalize(lateral, f"lateral{stride}_norm")
        if above is not None:
            lateral = layers.Add(name=f"merge{stride}")([lateral, _enlarge(above, lateral.shape[1:3], stride)])
        above = lateral
        pyramid[stride] = _separable(lateral, options.channels, 1, f"pyramid{stride}")
    for stride in strides[len(inputs) :]:
        finer_map = pyramid[stride // 2]
        pyramid[stride] = _separable(finer_map, options.channels, 2, f"pyramid{stride}")
    return FeatureMaps(encoded, encoded, tuple(pyramid[stride] for stride in strides))


def _enlarge(x: keras.KerasTensor, size: tuple[int, int], stride: int) -> keras.KerasTensor:
    """Doubles a map and cuts it to a size: maps of odd sides are rounded up when they are halved."""
    from keras import layers

    x = layers.UpSampling2D(2, name=f"enlarge{stride}")(x)
    surplus = [enlarged - side for enlarged, side in zip(x.shape[1:3], size, strict=True)]
    return layers.Cropping2D([(0, number) for number in surplus], name=f"cut{stride}")(x) if any(surplus) else x


def _separable(x: keras.KerasTensor, channels: int, strides: int, name: str) -> keras.KerasTensor:
    from keras import layers

    x = layers.SeparableConv2D(channels, 3, strides, padding="same", use_bias=False, name=name)(x)
    x = normalize(x, f"{name}_norm")
    return layers.ReLU(name=f"{name}_relu")(x)


MODEL = ModelSpec(options=Options, build=_build)
