"""A pre-trained backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from trainer_module import backbones, features
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.models._pretrained import BackboneOptions, learn_statistics_soon

if TYPE_CHECKING:
    import keras


class Options(BackboneOptions):
    """`[model]` with `name = "transfer"`."""

    name: Literal["transfer"] = "transfer"
    weights: str = Field(
        default=backbones.IMAGENET,
        min_length=1,
        description="`imagenet`, `none` (random), or a weights file's path; with `saved_model` a folder or handle.",
    )

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if value not in backbones.names():
            raise ValueError(f"unknown backbone `{value}`; known: {', '.join(backbones.names())}")
        return value

    def has_feature_map(self) -> bool:
        """Whether the backbone returns a map; a SavedModel returns a vector."""
        return backbones.get(self.backbone).network is not None


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds the backbone to a tensor of pixels; it is frozen unless its weights are random.

    Args:
      options: Backbone and weights.
      x: float32 [N, *image_size, 3], range [0, 255]: the backbone normalizes them.

    Returns:
      The backbone's map. The layers `backbone` and `features` (see `trainer_module.features`) are part of the graph.

    Raises:
      MissingWeightsError: If the weights are not available.

    Reference: Yosinski et al. 2014, https://arxiv.org/abs/1411.1792, section 4; Kornblith et al. 2019,
    https://arxiv.org/abs/1805.08974, section 4.
    """
    from keras import layers

    backbone = backbones.get(options.backbone).build(image_size=tuple(x.shape[1:3]), weights=options.weights)
    if options.begins_frozen():
        backbone.trainable = False
    else:
        learn_statistics_soon(backbone)
    x = backbone(x)
    x = layers.Activation("linear", name=features.FEATURES_LAYER)(x)
    return FeatureMaps(x, x)


MODEL = ModelSpec(options=Options, build=_build)
