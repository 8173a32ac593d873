"""The folder is the registry: one file a model.

Every module gives `Options` (the keys of `[model]` that belong to it; importing it must not import Keras) and
`build(options, *, x, num_classes)`. A new model is one new file; the conformance tests run
over `names()`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

DEFAULT = "scratch_cnn"


def names() -> list[str]:
    """Names of all models, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> ModuleType:
    """Imports the module of one model.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    if name not in names():
        raise ValueError(f"Unknown model {name!r}. Known models: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")
