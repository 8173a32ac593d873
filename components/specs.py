"""Specs of components: their entries by name, and a component without code of its own."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component
from tfx.types import channel, component_spec
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


class PlainComponent(base_component.BaseComponent):
    """A component whose keyword arguments are the inputs and parameters of its spec, unchanged."""

    def __init__(self, **arguments: Any) -> None:
        """Creates the component and its output channels.

        Raises:
          ValueError: If an argument is missing.
          TypeError: If an argument is not in the spec, or has the wrong type.
        """
        if unknown := arguments.keys() - self.SPEC_CLASS.INPUTS.keys() - self.SPEC_CLASS.PARAMETERS.keys():
            raise TypeError(f"unknown arguments of {type(self).__name__}: {', '.join(sorted(unknown))}")
        outputs = {name: channel.Channel(type=output.type) for name, output in self.SPEC_CLASS.OUTPUTS.items()}
        super().__init__(spec=self.SPEC_CLASS(**arguments, **outputs))
