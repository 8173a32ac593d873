"""GatedPusher: TFX's Pusher behind one more gate."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import channel, component_spec, standard_artifacts, standard_component_specs

import components
from components.pusher import executor


class GatedPusherSpec(standard_component_specs.PusherSpec):
    """TFX's, with GradCam's verdict: it is neither about the model's figures nor about serving it."""

    INPUTS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.PusherSpec.INPUTS,
        "explanations": component_spec.ChannelParameter(type=components.GradCamExplanations),
    }


class GatedPusher(base_component.BaseComponent):
    """Pushes a model that Evaluator, ServingValidator and GradCam have let pass.

    Outputs:
      pushed_model: As TFX's.
    """

    SPEC_CLASS = GatedPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: channel.BaseChannel,
        model_blessing: channel.BaseChannel,
        infra_blessing: channel.BaseChannel,
        explanations: channel.BaseChannel,
        push_destination: pusher_pb2.PushDestination,
    ) -> None:
        """Takes what the instance needs.

        Args:
          model: Trainer's `model`.
          model_blessing: Evaluator's.
          infra_blessing: ServingValidator's.
          explanations: GradCam's, of which the property `blessed` is read.
          push_destination: Where versions go.
        """
        super().__init__(
            spec=GatedPusherSpec(
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                explanations=explanations,
                push_destination=push_destination,
                custom_config="null",
                pushed_model=channel.Channel(type=standard_artifacts.PushedModel),
            )
        )
