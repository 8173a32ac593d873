"""ImageExampleGen: folders of pictures → tf.Examples, and a record of everything that was refused."""

from typing import Any, ClassVar

from tfx.components.example_gen import driver
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import channel, component_spec, standard_artifacts

import components
from components.image_example_gen import executor
from components.image_example_gen.layout import Layout


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """What the component takes and gives.

    The first four parameters are those of TFX's file-based driver, which resolves the span and fingerprints every
    file (name, size, time of change), so that the cache sees changed data.
    """

    PARAMETERS: ClassVar[dict[str, Any]] = {
        "input_base": component_spec.ExecutionParameter(type=str),
        "input_config": component_spec.ExecutionParameter(type=example_gen_pb2.Input),
        "output_config": component_spec.ExecutionParameter(type=example_gen_pb2.Output),
        "range_config": component_spec.ExecutionParameter(type=range_config_pb2.RangeConfig, optional=True),
        "options": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=components.Quarantine),
    }


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Reads JPEG and PNG files from class folders into raw examples.

    Outputs:
      examples: Splits `train`, `validation` and, unless its share is 0, `test`; gzipped TFRecords of tf.Example
        with the features of `trainer_module.features`.
      quarantine: Every file that is not a usable picture, with the reason.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.FileBasedDriver

    def __init__(self, *, input_base: str, layout: Layout, options: executor.Options, source_hash: str) -> None:
        """Takes what the instance needs.

        Args:
        input_base: The data folder.
        layout: What `layout.inspect` found there.
        options: What the executor is told.
        source_hash: Of the code behind this node: an edit runs it again.
        """
        split = example_gen_pb2.Input.Split(name="pictures", pattern=layout.pattern)
        super().__init__(
            spec=ImageExampleGenSpec(
                input_base=input_base,
                input_config=example_gen_pb2.Input(splits=[split]),
                output_config=example_gen_pb2.Output(),
                options=options.model_dump_json(),
                source_hash=source_hash,
                examples=channel.Channel(type=standard_artifacts.Examples),
                quarantine=channel.Channel(type=components.Quarantine),
            )
        )
