"""ServingValidator: the gate that sends real requests to the exported model before it is pushed."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from components import specs
from components.serving_validator import executor
from components.serving_validator.options import ServingLimits


class ServingValidatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs of ServingValidator."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("options", "split", "limits", "source_hash")
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        model=standard_artifacts.Model, model_run=standard_artifacts.ModelRun, examples=standard_artifacts.Examples
    )
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(blessing=standard_artifacts.InfraBlessing)


class ServingValidator(base_component.BaseComponent):
    """Inspects the export, compares its responses with those of the Keras model, emits an InfraBlessing.

    Outputs:
      blessing: A standard InfraBlessing, for Pusher's `infra_blessing`.
    """

    SPEC_CLASS = ServingValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: channel.BaseChannel,
        model_run: channel.BaseChannel,
        examples: channel.BaseChannel,
        options: str,
        split: str,
        limits: ServingLimits,
        source_hash: str,
    ) -> None:
        """Configures the node.

        Args:
          model: Trainer's `model`.
          model_run: Trainer's `model_run`, which contains the Keras file.
          examples: Raw examples.
          options: TrainerOptions as JSON, without `classes`.
          split: The split whose first `limits.validation_examples` examples are sent to the model.
          limits: The bounds of the checks, and the number of examples.
          source_hash: Hash of the code behind this node; an edit runs the node again.
        """
        super().__init__(
            spec=ServingValidatorSpec(
                model=model,
                model_run=model_run,
                examples=examples,
                options=options,
                split=split,
                limits=limits.model_dump_json(),
                source_hash=source_hash,
                blessing=channel.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
