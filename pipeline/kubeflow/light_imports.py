"""Keeps packages that no node uses out of the pods: importing them takes longer than most nodes work.

Beam, Keras, TFX and TFDV import some packages if they are installed, and work without them. Other packages import
everything they have, for the sake of `from tfx.components import Trainer`, where a node needs one module.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

# Every importer of these handles an ImportError. pyplot is that of Keras's visualizations.
UNUSED = (
    "apache_beam.io.gcp.bigquery",
    "apache_beam.transforms.xlang.io",
    "google.cloud.aiplatform",
    "google.cloud.bigquery",
    "matplotlib.pyplot",
    "sklearn",
)
# Of the first two, TFX's entrypoint uses protocol buffers.
_LAZY = ("kfp", "tensorflow_model_analysis", "tfx.components")
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

    def __init__(self, spec: importlib.machinery.ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__package__, self.__file__ = spec, spec.name, spec.origin
        self.__path__ = list(spec.submodule_search_locations or ())

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        # Python asks for such names before it imports a module of the package.
        is_module = name.startswith("__") or importlib.util.find_spec(f"{self.__name__}.{name}")
        if is_module or spec is None or spec.loader is None or self.__dict__.get("_has_run"):
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
    # TFMA's protocol buffers depend on it, and its package would have imported it.
    importlib.import_module("google.protobuf.wrappers_pb2")
    for name in _LAZY:
        spec = importlib.util.find_spec(name)
        if spec is not None and name not in sys.modules:
            sys.modules[name] = _Package(spec)
    if _EVALUATOR not in sys.modules:
        evaluator = types.ModuleType(_EVALUATOR)
        evaluator.Executor = type("Executor", (), {})  # type: ignore[attr-defined]
        sys.modules[_EVALUATOR] = evaluator
