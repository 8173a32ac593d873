"""VersionPusher: adds a blessed model to the versions that a model server loads."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts, system_executions

import components
from components import specs
from components.pusher import executor


class VersionPusherSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of VersionPusher."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("base_directory", "dataset") | {
        "keep_versions": component_spec.ExecutionParameter(type=int),
    }
    # TFX has no blessing for GradCam's verdict, neither about metrics nor about serving: it is a property here.
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        model=standard_artifacts.Model,
        model_blessing=standard_artifacts.ModelBlessing,
        infra_blessing=standard_artifacts.InfraBlessing,
        explanations=components.GradCamExplanations,
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(pushed_model=standard_artifacts.PushedModel)
    TYPE_ANNOTATION = system_executions.Deploy


class VersionPusher(base_component.BaseComponent):
    """Adds a model that every gate has blessed to a folder of numbered versions, atomically.

    Outputs:
      pushed_model: As TFX's, with the property `model_id`.
    """

    SPEC_CLASS = VersionPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: channel.BaseChannel,
        model_blessing: channel.BaseChannel,
        infra_blessing: channel.BaseChannel,
        explanations: channel.BaseChannel,
        base_directory: str,
        keep_versions: int | None,
        dataset: str,
    ) -> None:
        """Creates the node.

        Args:
          model: Trainer's `model`.
          model_blessing: Evaluator's `blessing`.
          infra_blessing: ServingValidator's `blessing`.
          explanations: GradCam's `explanations`; the property `blessed` is read.
          base_directory: The folder that a model server watches.
          keep_versions: Number of versions to keep; None for all.
          dataset: JSON object that identifies the dataset, without its classes, for the manifest of the version.
        """
        super().__init__(
            spec=VersionPusherSpec(
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                explanations=explanations,
                base_directory=base_directory,
                keep_versions=keep_versions or 0,
                dataset=dataset,
                pushed_model=channel.Channel(type=standard_artifacts.PushedModel),
            )
        )
