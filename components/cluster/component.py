"""Nodes that run on Kubeflow Pipelines only; see `executor`."""

from typing import Any, ClassVar

from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec, standard_artifacts

import components
from components import specs
from components.cluster import executor


class PreviousSpanSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of PreviousSpan."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("spans_dir")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(current=standard_artifacts.ExampleStatistics)
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        statistics=standard_artifacts.ExampleStatistics, schema=standard_artifacts.Schema
    )


class PreviousSpan(specs.PlainComponent):
    """Finds the newest earlier span that DatasetGate has blessed, on the work volume.

    Args:
      current: Statistics of this run's span.
      spans_dir: Folder in which DatasetGate stores blessed spans.

    Outputs:
      statistics: The statistics of that span; without one, an artifact with the property `absent`.
      schema: Its schema; likewise.
    """

    SPEC_CLASS = PreviousSpanSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.PreviousSpan)


class ServedModelSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of ServedModel."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("model_base_path")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(candidate=standard_artifacts.Model)
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(model=standard_artifacts.Model)


class ServedModel(specs.PlainComponent):
    """Finds the baseline model in the folder that Pusher pushes to.

    Args:
      candidate: Trainer's `model`.
      model_base_path: The folder of numbered versions.

    Outputs:
      model: A copy of the newest other version; without one, an artifact with the property `absent`.
    """

    SPEC_CLASS = ServedModelSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.ServedModel)


class DatasetGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of DatasetGate."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("spans_dir", "verdicts_dir", "run_id")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        anomalies=standard_artifacts.ExampleAnomalies,
        statistics=standard_artifacts.ExampleStatistics,
        schema=standard_artifacts.Schema,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class DatasetGate(specs.PlainComponent):
    """Fails if ExampleValidator refuses the dataset.

    ExampleValidator itself succeeds in that case: a refusal must not be retried, its anomalies must be stored, and the
    names of the tasks alone must show whether a run was refused or has failed.

    Args:
      anomalies: From ExampleValidator.
      statistics: The validated statistics.
      schema: The schema that they were validated against.
      spans_dir: Folder in which both are stored for the next span.
      verdicts_dir: Folder in which a refusal is stored for RunVerdict.
      run_id: Id of the run.
    """

    SPEC_CLASS = DatasetGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.DatasetGate)


class ModelGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of ModelGate."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("verdicts_dir", "run_id")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        pushed_model=standard_artifacts.PushedModel,
        blessing=standard_artifacts.ModelBlessing,
        infra_blessing=standard_artifacts.InfraBlessing,
        explanations=components.GradCamExplanations,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class ModelGate(specs.PlainComponent):
    """Fails if a gate refused the model, after all other nodes: Pusher succeeds in that case.

    Args:
      pushed_model: From Pusher.
      blessing: From Evaluator.
      infra_blessing: From ServingValidator.
      explanations: From GradCam.
      verdicts_dir: Folder in which the verdict is stored for RunVerdict.
      run_id: Id of the run.
    """

    SPEC_CLASS = ModelGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.ModelGate)


class RunVerdictSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of RunVerdict."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("final_status", "verdicts_dir", "run_id")
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class RunVerdict(specs.PlainComponent):
    """The exit handler: runs after all other nodes, whether these succeeded or not.

    Args:
      final_status: TFX's `FinalStatusStr`, which Kubeflow Pipelines replaces by the status of the run.
      verdicts_dir: Folder in which the gates have stored their verdicts.
      run_id: Id of the run.
    """

    SPEC_CLASS = RunVerdictSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.RunVerdict)
