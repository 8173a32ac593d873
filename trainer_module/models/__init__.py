"""The folder is the registry: one file a model.

Every module has `Options` (the keys of `[model]` that belong to it; importing it must not import Keras) and
`build(options, *, x)`, which maps pixels to feature maps. A model has no head: tasks add theirs. A new model is one new
file; the conformance tests run over `names()`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from trainer_module import registry

if TYPE_CHECKING:
    import keras

DEFAULT = "scratch_cnn"


class FeatureMaps(NamedTuple):
    """The output of a model, which the head of a task reads.

    Attributes:
      encoded: The coarsest map [N, h, w, c], output of the layer `features.FEATURES_LAYER`: pooled by heads that
        describe the whole image, embedded, and explained by Grad-CAM.
      decoded: The finest map [N, H, W, c] for heads that describe every position; `encoded` itself if the model has no
        decoder.
    """

    encoded: keras.KerasTensor
    decoded: keras.KerasTensor


def names() -> list[str]:
    """Names of all models, in alphabetical order."""
    return registry.names(sys.modules[__name__])


def get(name: str) -> ModuleType:
    """Imports the module of one model.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    return registry.get(sys.modules[__name__], "model", name)
