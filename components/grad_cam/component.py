"""GradCam: shows where the model looked, for the decisions most worth looking at."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components.grad_cam import executor


class GradCamSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        "options": component_spec.ExecutionParameter(type=str),
        "split": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {
        "explanations": component_spec.ChannelParameter(type=components.GradCamExplanations)
    }


class GradCam(base_beam_component.BaseBeamComponent):
    """Explains the most confident right and wrong decisions of every class.

    Outputs:
      explanations: PNG files of pictures, heat maps and overlays, `index.json` and `index.html`.
    """

    SPEC_CLASS = GradCamSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        model_run: channel.BaseChannel,
        examples: channel.BaseChannel,
        options: str,
        split: str,
        source_hash: str,
    ) -> None:
        """Takes what the instance needs.

        Args:
          model_run: Trainer's `model_run`, which holds the Keras file.
          examples: Raw examples.
          options: TrainerOptions as JSON.
          split: The split to explain.
          source_hash: Of the code behind this node: an edit runs it again.
        """
        super().__init__(
            spec=GradCamSpec(
                model_run=model_run,
                examples=examples,
                options=options,
                split=split,
                source_hash=source_hash,
                explanations=channel.Channel(type=components.GradCamExplanations),
            )
        )
