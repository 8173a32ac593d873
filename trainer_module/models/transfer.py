"""A pre-trained backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainer_module import backbones, features
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.models._pretrained import BackboneOptions, learn_statistics_soon

if TYPE_CHECKING:
    import keras

_WHOLE: Final = 32  # the stride of the last map of every backbone


class Options(BackboneOptions):
    """`[model]` with `name = "transfer"`."""

    name: Literal["transfer"] = "transfer"
    weights: str = Field(
        default=backbones.IMAGENET,
        min_length=1,
        description="`imagenet`, `none` (random), or a weights file's path; with `saved_model` a folder or handle.",
    )
    feature_stride: Literal[4, 8, 16, 32] = Field(
        default=_WHOLE,
        description="Pixels between the positions of the feature map; the backbone ends at the last layer with this "
        "stride. Objects of few pixels, and textures, may need 8 or 16.",
    )

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if value not in backbones.names():
            raise ValueError(f"unknown backbone `{value}`; known: {', '.join(backbones.names())}")
        return value

    @model_validator(mode="after")
    def _backbone_has_the_stride(self) -> Self:
        if self.feature_stride == _WHOLE:
            return self
        strides = (*backbones.get(self.backbone).skip_strides, _WHOLE)
        if self.feature_stride not in strides:
            known = ", ".join(str(stride) for stride in strides if stride >= 4)
            raise ValueError(
                f"`{self.backbone}` has no feature map with a stride of {self.feature_stride}; known: {known}"
            )
        return self

    def has_feature_map(self) -> bool:
        """Whether the backbone returns a map; a SavedModel returns a vector."""
        return backbones.get(self.backbone).network is not None


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds the backbone to a tensor of pixels; it is frozen unless its weights are random.

    Args:
      options: Backbone and weights.
      x: float32 [N, *image_size, 3], range [0, 255]: the backbone normalizes them.

    Returns:
      The backbone's map [N, h, w, c] with the stride of the options. The layers `backbone` and `features` (see
      `trainer_module.features`) are part of the graph.

    Raises:
      MissingWeightsError: If the weights are not available.

    Reference: Yosinski et al. 2014, https://arxiv.org/abs/1411.1792, section 4; Kornblith et al. 2019,
    https://arxiv.org/abs/1805.08974, section 4.
    """
    import keras
    from keras import layers

    record = backbones.get(options.backbone)
    backbone = record.build(image_size=tuple(x.shape[1:3]), weights=options.weights)
    if options.feature_stride != _WHOLE:
        skips = dict(zip(record.skip_strides, record.skips(backbone), strict=True))
        backbone = keras.Model(backbone.input, skips[options.feature_stride], name=features.BACKBONE_LAYER)
    if options.begins_frozen():
        backbone.trainable = False
    else:
        learn_statistics_soon(backbone)
    x = backbone(x)
    x = layers.Activation("linear", name=features.FEATURES_LAYER)(x)
    return FeatureMaps(x, x)


MODEL = ModelSpec(options=Options, build=_build)
