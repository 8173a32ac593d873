"""The folder is the registry: one file a model.

Every module gives `Options` (the keys of `[model]` that belong to it; importing it must not import Keras) and
`build(options, *, x, num_classes)`. A new model is one new file; the conformance tests run
over `names()`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from trainer_module import registry

DEFAULT = "scratch_cnn"


def names() -> list[str]:
    """Names of all models, in alphabetical order."""
    return registry.names(sys.modules[__name__])


def get(name: str) -> ModuleType:
    """Imports the module of one model.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    return registry.get(sys.modules[__name__], "model", name)
