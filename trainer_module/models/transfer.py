"""A network trained on ImageNet, with a head of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from trainer_module import backbones, features
from trainer_module.models._pretrained import learn_statistics_soon
from trainer_module.models._pretrained import unfreeze as unfreeze
from trainer_module.section import ModelOptions, Rate

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
    dense_units: int = Field(default=0, ge=0, le=65536, description="Size of a dense layer in the head; 0 for none.")
    head_dropout: Rate = Field(default=0.2, description="Dropout before the class layer.")

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if value not in backbones.names():
            raise ValueError(f"unknown backbone `{value}`; known: {', '.join(backbones.names())}")
        return value

    def smallest_image(self) -> int:
        """Side of the smallest picture, pixels: every backbone halves it five times."""
        return 32

    def has_backbone(self) -> bool:
        """Yes."""
        return True

    def with_random_weights(self) -> Options:
        """The same network without its weights; a SavedModel cannot be had without its folder."""
        return self if self.backbone == "saved_model" else self.model_copy(update={"weights": backbones.RANDOM})

    def begins_frozen(self) -> bool:
        """Whether the head is trained first; a base of random weights would teach it nothing."""
        return self.weights != backbones.RANDOM

    def can_unfreeze(self) -> bool:
        """Whether the base has layers that fine-tuning could reach."""
        return self.begins_frozen() and self.backbone != "saved_model"


def build(options: Options, *, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Adds backbone and head to a tensor of pixels; the backbone is frozen, unless its weights are random.

    Head: global average pooling, a dense layer with ReLU if wanted, dropout, class layer.

    Args:
      options: Backbone, weights and head.
      x: float32 [N, image_size, image_size, 3], range [0, 255]: the backbone normalises.
      num_classes: Number of classes.

    Returns:
      Logits, float32 [N, num_classes]. The layers `backbone`, `features`, `pooled` and `embedding` (see
      `trainer_module.features`) are part of the graph.

    Raises:
      MissingWeightsError: If the weights are not there.

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
    x = layers.GlobalAveragePooling2D(name=features.POOLED_LAYER)(x)
    if options.dense_units:
        x = layers.Dense(options.dense_units, activation="relu", name=features.EMBEDDING_LAYER)(x)
    else:
        x = layers.Activation("linear", name=features.EMBEDDING_LAYER)(x)
    x = layers.Dropout(options.head_dropout, name="head_dropout")(x)
    return layers.Dense(num_classes, dtype="float32", name=features.LOGITS_LAYER)(x)
