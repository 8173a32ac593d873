"""The folder is the registry: one file a pre-trained network without its class layer.

Every module gives:
  `build(*, image_size, weights) -> keras.Model`: from float32 pixels [N, s, s, 3], range [0, 255], to the last
    spatial feature map [N, s/32, s/32, FEATURES]; the network's own preprocessing is inside, as layers.
  `FEATURES`: channels of that map, and so the size of the pooled vector; None where only the loaded network knows.
  `SKIPS`: names of the layers whose outputs have stride 2, 4, 8 and 16, for decoders; empty where there are none.

`weights` is "imagenet", "none" (random) or a path. A file whose name begins with an underscore is no backbone.
Importing a backbone imports no Keras.
"""

from __future__ import annotations

import sys
from types import ModuleType

from trainer_module import registry

IMAGENET = "imagenet"
RANDOM = "none"


class MissingWeightsError(ValueError):
    """Pre-trained weights are not there; the message says how to bring them."""


def names() -> list[str]:
    """Names of all backbones, in alphabetical order."""
    return registry.names(sys.modules[__name__])


def get(name: str) -> ModuleType:
    """Imports the module of one backbone.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    return registry.get(sys.modules[__name__], "backbone", name)
