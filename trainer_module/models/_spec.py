"""The record that describes a model. Importing it, or a model, does not import Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainer_module.section import ModelOptions

if TYPE_CHECKING:
    import keras


class FeatureMaps(NamedTuple):
    """The output of a model, which the head of a task reads.

    Attributes:
      encoded: The coarsest map [N, h, w, c], output of the layer `features.FEATURES_LAYER`: pooled by heads that
        describe the whole image, embedded, and explained by Grad-CAM.
      decoded: The finest map [N, H, W, c] for heads that describe every position; `encoded` itself if the model has no
        decoder.
      pyramid: Maps for heads that look for objects, the finest first, each [N, h, w, c] with the same c; their strides
        are `ModelOptions.pyramid_strides`. Empty for `encoded` alone.
    """

    encoded: keras.KerasTensor
    decoded: keras.KerasTensor
    pyramid: tuple[keras.KerasTensor, ...] = ()

    @property
    def levels(self) -> tuple[keras.KerasTensor, ...]:
        """The pyramid; of a model without one, `encoded`."""
        return self.pyramid or (self.encoded,)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model maps pixels to feature maps. It has no head: tasks add theirs.

    Attributes:
      options: The keys of `[model]`.
      build: (options, image tensor [N, *image_size, channels]) → feature maps. The tensor is normalised, or
        pixels with range [0, 255] if `options.has_backbone()`. A backbone is a nested model, the layer
        `features.BACKBONE_LAYER`.
    """

    options: type[ModelOptions]
    build: Callable[..., FeatureMaps]
