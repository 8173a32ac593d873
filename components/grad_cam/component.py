"""GradCam: explains the most informative predictions by heat maps, and measures their faithfulness."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components import specs
from components.grad_cam import executor


class GradCamSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs of GradCam."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("options", "split", "slices", "source_hash")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        model=standard_artifacts.Model, model_run=standard_artifacts.ModelRun, examples=standard_artifacts.Examples
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(explanations=components.GradCamExplanations)


class GradCam(base_beam_component.BaseBeamComponent):
    """Explains predictions of every class and slice, and measures how faithful the explanations are.

    Outputs:
      explanations: The files of `components.grad_cam.artifact`; Pusher reads the property `blessed`.
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
        """Configures the node.

        Args:
          model: Trainer's `model`, which is blessed or refused.
          model_run: Trainer's `model_run`, which contains the Keras file.
          examples: Raw examples.
          options: TrainerOptions as JSON, without `classes`.
          split: The split to explain.
          slices: Slices from whose values predictions are selected.
          source_hash: Hash of the code behind this node; an edit runs the node again.
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
