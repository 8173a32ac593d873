"""TFX components of our own, and their artifact types.

The types are named `components.<Type>`: that path is what ML Metadata and Kubeflow Pipelines store and import.

The types are made on first use, so that asking for a name in this package does not import TFX.
"""

from __future__ import annotations

import importlib
from typing import Any

_ARTIFACTS = ("GradCamExplanations", "ModelReport", "Quarantine")


def __getattr__(name: str) -> Any:
    if name in _ARTIFACTS:
        return getattr(importlib.import_module("components.artifacts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
