"""A pre-trained backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from trainer_module import backbones, features
from trainer_module.models import FeatureMaps, ModelSpec
from trainer_module.models._pretrained import learn_statistics_soon
from trainer_module.section import ModelOptions

if TYPE_CHECKING:
    import keras


class Options(ModelOptions):
    """`[model]` with `name = "transfer"`."""

    name: Literal["transfer"] = "transfer"
    backbone: str = Field(default="mobilenet_v2", description="The pre-trained network.")
    weights: str = Field(
        default=backbones.IMAGENET,
        min_length=1,
        description="`imagenet`, `none` (random), or the path of a weights file; with `saved_model` a folder.",
    )

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if value not in backbones.names():
            raise ValueError(f"unknown backbone `{value}`; known: {', '.join(backbones.names())}")
        return value

    def smallest_image(self) -> int:
        """Returns the side of the smallest image that the backbone accepts, pixels."""
        return backbones.get(self.backbone).smallest_image

    def has_backbone(self) -> bool:
        """Always true."""
        return True

    def with_random_weights(self) -> Options:
        """Returns the same network with random weights; a SavedModel keeps its own."""
        trainable = backbones.get(self.backbone).trainable
        return self.model_copy(update={"weights": backbones.RANDOM}) if trainable else self

    def check_weights(self, image_size: int) -> None:
        """Checks that the weights of the backbone are available."""
        backbones.get(self.backbone).check_weights(image_size=image_size, weights=self.weights)

    def begins_frozen(self) -> bool:
        """Whether the head is trained first; not with a backbone of random weights."""
        return self.weights != backbones.RANDOM

    def can_unfreeze(self) -> bool:
        """Whether the backbone has layers that fine-tuning can train."""
        return self.begins_frozen() and backbones.get(self.backbone).trainable


def _build(options: Options, x: keras.KerasTensor) -> FeatureMaps:
    """Adds the backbone to a tensor of pixels; it is frozen unless its weights are random.

    Args:
      options: Backbone and weights.
      x: float32 [N, image_size, image_size, 3], range [0, 255]: the backbone normalizes them.

    Returns:
      The backbone's map. The layers `backbone` and `features` (see `trainer_module.features`) are part of the graph.

    Raises:
      MissingWeightsError: If the weights are not available.

    Reference: Yosinski et al. 2014, https://arxiv.org/abs/1411.1792, section 4; Kornblith et al. 2019,
    https://arxiv.org/abs/1805.08974, section 4.
    """
    from keras import layers

    backbone = backbones.get(options.backbone).build(image_size=x.shape[1], weights=options.weights)
    if options.begins_frozen():
        backbone.trainable = False
    else:
        learn_statistics_soon(backbone)
    x = backbone(x)
    x = layers.Activation("linear", name=features.FEATURES_LAYER)(x)
    return FeatureMaps(x, x)


MODEL = ModelSpec(options=Options, build=_build)
