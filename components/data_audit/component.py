"""DataAudit: lists the images of a dataset whose labels a person should review."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

import components
from components import specs
from components.data_audit import executor


class DataAuditSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("source_hash")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        examples=standard_artifacts.Examples,
        quarantine=components.Quarantine,
        model=standard_artifacts.Model,
        model_run=standard_artifacts.ModelRun,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(audit=components.DataAudit)


class DataAudit(specs.PlainComponent, base_component.BaseComponent):
    """Audits the labels of all splits with the trained network. It changes nothing, and no gate depends on it.

    Args:
      examples: Raw examples.
      quarantine: ImageExampleGen's, with the labels that a person has confirmed.
      model: Trainer's `model`, whose embeddings are used.
      model_run: Trainer's `model_run`: options, and the Keras file that predicts masks and boxes.
      source_hash: Hash of the code behind this node; an edit runs the node again.

    Outputs:
      audit: The files of `components.data_audit.artifact`.
    """

    SPEC_CLASS = DataAuditSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
