"""TFX components of our own, and their artifact types.

The types are named `components.<Type>`: that path is what ML Metadata and Kubeflow Pipelines store and import.

The types are made on first use, so that asking for a name in this package does not import TFX.
"""

from __future__ import annotations

import importlib
from typing import Any

# Components are classes with a ComponentSpec. TFX's `@component(use_beam=True)` was tried instead: properties of output
# artifacts, optional inputs, Beam arguments and the Kubeflow compiler work, and a module becomes 30 lines shorter. But
# the constructor is `(*args, **kwargs)`, without types and documentation; the executor is made in the module of the
# component, so that Kubeflow's small nodes would import TFX; it cannot extend an executor of TFX (Pusher, SchemaGen,
# StatisticsGen, Transform) and has no context (temporary folder, run id); and TFX calls the decorator experimental,
# without guarantees of compatibility.
_ARTIFACTS = ("DataAudit", "GradCamExplanations", "ModelReport", "MonitoringReference", "Quarantine")


def __getattr__(name: str) -> Any:
    if name in _ARTIFACTS:
        return getattr(importlib.import_module("components.artifacts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
