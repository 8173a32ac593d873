"""Keeps packages that no node uses out of the pods: importing them takes longer than most nodes work.

Beam, Keras, TFX and TFDV import these packages if they are installed, and work without them. TFX's package of
components imports all components, and with them TensorFlow Model Analysis, for the sake of `from tfx.components import
Trainer`; an executor needs one of them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

# Every importer of these handles an ImportError.
UNUSED = (
    "apache_beam.io.gcp.bigquery",
    "apache_beam.io.gcp.pubsub",
    "apache_beam.transforms.xlang.io",
    "google.cloud.aiplatform",
    "google.cloud.bigquery",
    "sklearn",
)
_COMPONENTS = "tfx.components"
# TFX's entrypoint asks whether the executor is this one, of which ours is not a subclass.
_EVALUATOR = "tfx.components.evaluator.executor"


class _Unused(importlib.abc.MetaPathFinder):
    """Reports packages as not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is not used in pods", name=fullname)
        return None


class _Package(types.ModuleType):
    """A package whose code runs when one of its names is used, and not when one of its modules is imported."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        # Python asks for such names while it imports a module of the package.
        if name.startswith("__") or spec is None or spec.loader is None or self.__dict__.get("_has_run"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._has_run = True
        spec.loader.exec_module(self)
        return getattr(self, name)


def install(*, used: Sequence[str] = ()) -> None:
    """Applies to all later imports of this process.

    Args:
      used: Packages that this node does use.
    """
    sys.meta_path.insert(0, _Unused([name for name in UNUSED if name not in used]))
    spec = importlib.util.find_spec(_COMPONENTS)
    if spec is not None and _COMPONENTS not in sys.modules:
        package = _Package(_COMPONENTS)
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
        package.__package__, package.__file__ = _COMPONENTS, spec.origin
        sys.modules[_COMPONENTS] = package
        evaluator = types.ModuleType(_EVALUATOR)
        evaluator.Executor = type("Executor", (), {})  # type: ignore[attr-defined]
        sys.modules[_EVALUATOR] = evaluator
