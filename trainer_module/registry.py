"""A package as a registry: one file per entry, and no list to maintain.

    # trainer_module/backbones/__init__.py
    _REGISTRY = Registry(__name__, "backbone", Backbone)
    names, get = _REGISTRY.names, _REGISTRY.get

    # trainer_module/backbones/resnet50.py: the file name is the name of the entry
    BACKBONE = Backbone(...)

Every module of the package whose name does not begin with an underscore is an entry. It exports one object, named
after the kind in capital letters, that is an instance of the entry type. `get("resnet50")` is a `Backbone` to mypy, and
the type is checked at run time too.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Generic, TypeVar

from trainer_module.error_text import did_you_mean

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """The entries of one package."""

    def __init__(self, package: str, kind: str, entry_type: type[Entry]) -> None:
        """Describes the registry; imports nothing.

        Args:
          package: Name of the package, `__name__` in its `__init__.py`.
          kind: Noun for error messages; every module exports its entry as this noun in capital letters.
          entry_type: Class of the entries, for example a frozen dataclass. A `Protocol` must be `runtime_checkable`.
        """
        self._package, self._kind, self._entry_type = package, kind, entry_type

    def names(self) -> list[str]:
        """Names of all entries, in alphabetical order; imports none of them."""
        return list(self._names)

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        # Read once: a configuration asks for entries hundreds of times.
        path = importlib.import_module(self._package).__path__
        return tuple(sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_")))

    def get(self, name: str) -> Entry:
        """Imports the module of one entry.

        Args:
          name: The name of the module.

        Returns:
          The entry that the module exports.

        Raises:
          ValueError: If the package contains no module of this name.
          TypeError: If the module does not export an entry of the right type.
        """
        known = self._names
        if name not in known:
            hint = did_you_mean(name, known) or "."
            raise ValueError(f"Unknown {self._kind} {name!r}{hint} Known {self._kind}s: {', '.join(known)}.")
        module, attribute = importlib.import_module(f"{self._package}.{name}"), self._kind.upper()
        entry = getattr(module, attribute, None)
        if not isinstance(entry, self._entry_type):
            raise TypeError(
                f"{module.__file__} must define {attribute}, an instance of {self._entry_type.__name__}; "
                f"{attribute} is {type(entry).__name__ if hasattr(module, attribute) else 'not defined'}."
            )
        return entry
