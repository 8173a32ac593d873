"""ModelReport: one page about a model: whether it was pushed, why, its metrics, data and training."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

import components
from components import specs
from components.model_report import executor


class ModelReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("name", "configuration", "data_fingerprint", "source_hash")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        model=standard_artifacts.Model,
        model_run=standard_artifacts.ModelRun,
        examples=standard_artifacts.Examples,
        statistics=standard_artifacts.ExampleStatistics,
        quarantine=components.Quarantine,
        anomalies=standard_artifacts.ExampleAnomalies,
        evaluation=standard_artifacts.ModelEvaluation,
        blessing=standard_artifacts.ModelBlessing,
        infra_blessing=standard_artifacts.InfraBlessing,
        pushed_model=standard_artifacts.PushedModel,
    ) | specs.optional_artifacts(
        baseline_model=standard_artifacts.Model,
        explanations=components.GradCamExplanations,
        tuner_results=standard_artifacts.TunerResults,
        audit=components.DataAudit,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(report=components.ModelReport)


class ModelReport(specs.PlainComponent, base_beam_component.BaseBeamComponent):
    """Summarizes the artifacts of a run, of a refused model too.

    Args:
      model: Trainer's `model`.
      model_run: Trainer's `model_run`: history, options, Keras file.
      examples: Raw examples; for tasks that show their worst predictions, these are predicted again.
      statistics: StatisticsGen's, with the sizes of the images.
      quarantine: ImageExampleGen's counts, refused files and duplicates.
      anomalies: ExampleValidator's, with drift and skew.
      evaluation: Evaluator's metrics and the results of its thresholds.
      blessing: Evaluator's decision.
      infra_blessing: ServingValidator's decision and checks.
      pushed_model: Pusher's; its properties contain whether the model was pushed.
      baseline_model: The model that it was compared with; may resolve to nothing.
      name: Name of the served model.
      configuration: The complete configuration as TOML.
      data_fingerprint: Digest of the dataset.
      source_hash: Hash of the code of this node and those before it: an edit runs it again.
      explanations: GradCam's.
      tuner_results: Tuner's, if it ran.
      audit: DataAudit's, if it ran.

    Outputs:
      report: `report.html`, one file that loads nothing from elsewhere.
    """

    SPEC_CLASS = ModelReportSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
