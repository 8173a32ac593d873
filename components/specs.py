"""The entries of a ComponentSpec, by name."""

from __future__ import annotations

from typing import Any

from tfx.types import component_spec
from tfx.types.artifact import Artifact


def texts(*names: str) -> dict[str, Any]:
    """Parameters that are strings."""
    return {name: component_spec.ExecutionParameter(type=str) for name in names}


def artifacts(**types: type[Artifact]) -> dict[str, Any]:
    """Inputs or outputs."""
    return {name: component_spec.ChannelParameter(type=kind) for name, kind in types.items()}


def optional_artifacts(**types: type[Artifact]) -> dict[str, Any]:
    """Inputs that may be absent."""
    return {name: component_spec.ChannelParameter(type=kind, optional=True) for name, kind in types.items()}
