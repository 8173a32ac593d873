"""MonitoringReference: stores what a pushed version predicts for the test split, to compare requests with."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

import components
from components import specs
from components.monitoring_reference import executor


class MonitoringReferenceSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **specs.texts("split", "source_hash"),
        "max_images": component_spec.ExecutionParameter(type=int),
    }
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        examples=standard_artifacts.Examples,
        model=standard_artifacts.Model,
        model_run=standard_artifacts.ModelRun,
        pushed_model=standard_artifacts.PushedModel,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(reference=components.MonitoringReference)


class MonitoringReference(specs.PlainComponent, base_component.BaseComponent):
    """Runs the pushed model on the test split. No node waits for it, and no gate depends on it.

    Args:
      examples: Raw examples.
      model: Trainer's `model`: the one that was pushed.
      model_run: Trainer's `model_run`: the options.
      pushed_model: Pusher's; its properties contain the version.
      split: The evaluated split.
      source_hash: Hash of the code behind this node; an edit runs the node again.
      max_images: Largest number of images, and of training images.

    Outputs:
      reference: The files of `components.monitoring_reference.artifact`; none if no model was pushed.
    """

    SPEC_CLASS = MonitoringReferenceSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
