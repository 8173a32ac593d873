"""A folder as a registry: one file an entry, nothing to register. A name that begins with an underscore is no entry."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names(package: ModuleType) -> list[str]:
    """Names of all modules in the package's folder, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def get(package: ModuleType, kind: str, name: str) -> ModuleType:
    """Imports one module.

    Args:
      package: The folder.
      kind: What its files are, for the error.
      name: The module's name.

    Raises:
      ValueError: If no module of that name is in the folder.
    """
    known = names(package)
    if name not in known:
        raise ValueError(f"Unknown {kind} {name!r}. Known {kind}s: {', '.join(known)}.")
    return importlib.import_module(f"{package.__name__}.{name}")
