"""ImageExampleGen: pictures, however they lie → tf.Examples, and a record of everything that was refused."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components.image_example_gen import executor


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """What the component takes and gives."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        "input_base": component_spec.ExecutionParameter(type=str),
        "options": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=components.Quarantine),
    }


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Reads pictures into raw examples.

    TFX's file-based driver is not used: it looks at every file a second time, does not see a picture that was moved to
    another class, and is never run by Kubeflow Pipelines. Spans are resolved where the files are listed.

    Outputs:
      examples: Splits `train`, `validation` and, unless its share is 0, `test`; TFRecords of tf.Example with the
        features of `trainer_module.features`; properties `span` and `version`.
      quarantine: Every file that is not used, with the reason; copies and pictures that look alike; counts.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(self, *, input_base: str, options: executor.Options, source_hash: str) -> None:
        """Takes what the instance needs.

        Args:
          input_base: The data's place: a folder, a manifest, or a path with `{SPAN}`.
          options: What the executor is told.
          source_hash: Of the code behind this node: an edit runs it again.
        """
        super().__init__(
            spec=ImageExampleGenSpec(
                input_base=input_base,
                options=options.model_dump_json(),
                source_hash=source_hash,
                examples=channel.Channel(type=standard_artifacts.Examples),
                quarantine=channel.Channel(type=components.Quarantine),
            )
        )
