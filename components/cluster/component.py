"""Nodes that only Kubeflow Pipelines runs: see `executor`."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components.cluster import executor

_TEXT = component_spec.ExecutionParameter(type=str)


def _artifact(kind: type) -> Any:
    return component_spec.ChannelParameter(type=kind)


class PreviousSpanSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"spans_dir": _TEXT}
    INPUTS: ClassVar[dict[str, Any]] = {"current": _artifact(standard_artifacts.ExampleStatistics)}
    OUTPUTS: ClassVar[dict[str, Any]] = {
        "statistics": _artifact(standard_artifacts.ExampleStatistics),
        "schema": _artifact(standard_artifacts.Schema),
    }


class PreviousSpan(base_component.BaseComponent):
    """The newest earlier span that passed, from the work volume.

    Outputs:
      statistics: Of that span, or an artifact that says that there is none.
      schema: Of the same.
    """

    SPEC_CLASS = PreviousSpanSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.PreviousSpan)

    def __init__(self, *, current: channel.BaseChannel, spans_dir: str) -> None:
        """Takes what the instance needs.

        Args:
          current: Statistics of this run's span.
          spans_dir: Where PicturesGate keeps what passed.
        """
        super().__init__(
            spec=PreviousSpanSpec(
                current=current,
                spans_dir=spans_dir,
                statistics=channel.Channel(type=standard_artifacts.ExampleStatistics),
                schema=channel.Channel(type=standard_artifacts.Schema),
            )
        )


class ServedModelSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"model_base_path": _TEXT}
    INPUTS: ClassVar[dict[str, Any]] = {"candidate": _artifact(standard_artifacts.Model)}
    OUTPUTS: ClassVar[dict[str, Any]] = {"model": _artifact(standard_artifacts.Model)}


class ServedModel(base_component.BaseComponent):
    """The model to beat, from the folder that Pusher pushes to.

    Outputs:
      model: A copy of the newest other version of the same classes, or an artifact that says that there is none.
    """

    SPEC_CLASS = ServedModelSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.ServedModel)

    def __init__(self, *, candidate: channel.BaseChannel, model_base_path: str) -> None:
        """Takes what the instance needs.

        Args:
          candidate: Trainer's `model`.
          model_base_path: The folder of numbered versions.
        """
        super().__init__(
            spec=ServedModelSpec(
                candidate=candidate,
                model_base_path=model_base_path,
                model=channel.Channel(type=standard_artifacts.Model),
            )
        )


class PicturesGateSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"spans_dir": _TEXT, "verdicts_dir": _TEXT, "run_id": _TEXT}
    INPUTS: ClassVar[dict[str, Any]] = {
        "anomalies": _artifact(standard_artifacts.ExampleAnomalies),
        "statistics": _artifact(standard_artifacts.ExampleStatistics),
        "schema": _artifact(standard_artifacts.Schema),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class PicturesGate(base_component.BaseComponent):
    """Fails where ExampleValidator refuses the pictures.

    ExampleValidator itself succeeds then: a refusal is not to be tried again, its findings are to be kept, and whoever
    sees only the names of tasks can tell a refusal from a failure.
    """

    SPEC_CLASS = PicturesGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.PicturesGate)

    def __init__(
        self,
        *,
        anomalies: channel.BaseChannel,
        statistics: channel.BaseChannel,
        schema: channel.BaseChannel,
        spans_dir: str,
        verdicts_dir: str,
        run_id: str,
    ) -> None:
        """Takes what the instance needs.

        Args:
          anomalies: From ExampleValidator.
          statistics: What was validated.
          schema: Against what.
          spans_dir: Receives both, for the next span.
          verdicts_dir: Receives a refusal, for Verdict.
          run_id: Of the run.
        """
        super().__init__(
            spec=PicturesGateSpec(
                anomalies=anomalies,
                statistics=statistics,
                schema=schema,
                spans_dir=spans_dir,
                verdicts_dir=verdicts_dir,
                run_id=run_id,
            )
        )


class ModelGateSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"verdicts_dir": _TEXT, "run_id": _TEXT}
    INPUTS: ClassVar[dict[str, Any]] = {
        "pushed_model": _artifact(standard_artifacts.PushedModel),
        "blessing": _artifact(standard_artifacts.ModelBlessing),
        "infra_blessing": _artifact(standard_artifacts.InfraBlessing),
        "explanations": _artifact(components.GradCamExplanations),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class ModelGate(base_component.BaseComponent):
    """Fails where a gate refused the model, after everything else is done: to Pusher that is no failure."""

    SPEC_CLASS = ModelGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.ModelGate)

    def __init__(
        self,
        *,
        pushed_model: channel.BaseChannel,
        blessing: channel.BaseChannel,
        infra_blessing: channel.BaseChannel,
        explanations: channel.BaseChannel,
        verdicts_dir: str,
        run_id: str,
    ) -> None:
        """Takes what the instance needs.

        Args:
          pushed_model: From Pusher.
          blessing: From Evaluator.
          infra_blessing: From ServingValidator.
          explanations: From GradCam.
          verdicts_dir: Receives the verdict, for Verdict.
          run_id: Of the run.
        """
        super().__init__(
            spec=ModelGateSpec(
                pushed_model=pushed_model,
                blessing=blessing,
                infra_blessing=infra_blessing,
                explanations=explanations,
                verdicts_dir=verdicts_dir,
                run_id=run_id,
            )
        )


class VerdictSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {"final_status": _TEXT, "verdicts_dir": _TEXT, "run_id": _TEXT}
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {}


class Verdict(base_component.BaseComponent):
    """The exit handler: runs when all other nodes have ended, however they did."""

    SPEC_CLASS = VerdictSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Verdict)

    def __init__(self, *, final_status: str, verdicts_dir: str, run_id: str) -> None:
        """Takes what the instance needs.

        Args:
          final_status: TFX's `FinalStatusStr`, for which Kubeflow Pipelines puts what became of the other nodes.
          verdicts_dir: Where the gates noted what they decided.
          run_id: Of the run.
        """
        super().__init__(spec=VerdictSpec(final_status=final_status, verdicts_dir=verdicts_dir, run_id=run_id))
