"""GradCam: shows where the model looked, for the decisions most worth looking at, and whether it is true."""

import json
from collections.abc import Sequence
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
        "slices": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS: ClassVar[dict[str, Any]] = {
        "explanations": component_spec.ChannelParameter(type=components.GradCamExplanations)
    }


class GradCam(base_beam_component.BaseBeamComponent):
    """Explains decisions of every class and slice, and measures how faithful the explanations are.

    Outputs:
      explanations: What `components.grad_cam.findings` names; its property `blessed` is for `GatedPusher`.
    """

    SPEC_CLASS = GradCamSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: channel.BaseChannel,
        model_run: channel.BaseChannel,
        examples: channel.BaseChannel,
        options: str,
        split: str,
        slices: Sequence[str],
        source_hash: str,
    ) -> None:
        """Takes what the instance needs.

        Args:
          model: Trainer's `model`, which the verdict is about.
          model_run: Trainer's `model_run`, which holds the Keras file.
          examples: Raw examples.
          options: TrainerOptions as JSON.
          split: The split to explain.
          slices: Of whose values pictures are chosen.
          source_hash: Of the code behind this node: an edit runs it again.
        """
        super().__init__(
            spec=GradCamSpec(
                model=model,
                model_run=model_run,
                examples=examples,
                options=options,
                split=split,
                slices=json.dumps(list(slices)),
                source_hash=source_hash,
                explanations=channel.Channel(type=components.GradCamExplanations),
            )
        )
