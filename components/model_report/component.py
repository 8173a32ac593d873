"""ModelReport: one page that says whether the model went out, why, and what is known of it."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components.model_report import executor


class ModelReportSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        "name": component_spec.ExecutionParameter(type=str),
        "configuration": component_spec.ExecutionParameter(type=str),
        "data_fingerprint": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "quarantine": component_spec.ChannelParameter(type=components.Quarantine),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "explanations": component_spec.ChannelParameter(type=components.GradCamExplanations, optional=True),
        "tuner_results": component_spec.ChannelParameter(type=standard_artifacts.TunerResults, optional=True),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {"report": component_spec.ChannelParameter(type=components.ModelReport)}


class ModelReport(base_beam_component.BaseBeamComponent):
    """Draws together what the other nodes left: for a refused model too.

    Outputs:
      report: `report.html`, one file that needs no network.
    """

    SPEC_CLASS = ModelReportSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: channel.BaseChannel,
        model_run: channel.BaseChannel,
        examples: channel.BaseChannel,
        statistics: channel.BaseChannel,
        quarantine: channel.BaseChannel,
        anomalies: channel.BaseChannel,
        evaluation: channel.BaseChannel,
        blessing: channel.BaseChannel,
        infra_blessing: channel.BaseChannel,
        pushed_model: channel.BaseChannel,
        baseline_model: channel.BaseChannel,
        name: str,
        configuration: str,
        data_fingerprint: str,
        source_hash: str,
        explanations: channel.BaseChannel | None = None,
        tuner_results: channel.BaseChannel | None = None,
    ) -> None:
        """Takes what the instance needs.

        Args:
          model: Trainer's `model`.
          model_run: Trainer's `model_run`: history, options, Keras file.
          examples: Raw examples; masks are predicted anew for the pictures that are shown.
          statistics: StatisticsGen's, for the sizes of the pictures.
          quarantine: ImageExampleGen's counts, refused files and copies.
          anomalies: ExampleValidator's, with the drift.
          evaluation: Evaluator's figures and the verdicts of its rules.
          blessing: Evaluator's verdict.
          infra_blessing: ServingValidator's verdict and checks.
          pushed_model: Pusher's, which says whether anything was pushed.
          baseline_model: What the model was compared with; may resolve to nothing.
          name: Of the served model.
          configuration: The whole, as TOML.
          data_fingerprint: Digest of the data as they were found.
          source_hash: Of the code behind this node and those before it: an edit runs it again.
          explanations: GradCam's.
          tuner_results: Tuner's, where it ran.
        """
        super().__init__(
            spec=ModelReportSpec(
                model=model,
                model_run=model_run,
                examples=examples,
                statistics=statistics,
                quarantine=quarantine,
                anomalies=anomalies,
                evaluation=evaluation,
                blessing=blessing,
                infra_blessing=infra_blessing,
                pushed_model=pushed_model,
                baseline_model=baseline_model,
                explanations=explanations,
                tuner_results=tuner_results,
                name=name,
                configuration=configuration,
                data_fingerprint=data_fingerprint,
                source_hash=source_hash,
                report=channel.Channel(type=components.ModelReport),
            )
        )
