"""ImageExampleGen: a dataset of images, in any layout → tf.Examples, and a list of everything that was refused."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

import components
from components import specs
from components.image_example_gen import executor
from components.image_example_gen.options import ExampleGenOptions


class ImageExampleGenSpec(component_spec.ComponentSpec):
    """Parameters and outputs of the component."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("input_base", "options", "source_hash")
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        examples=standard_artifacts.Examples, quarantine=components.Quarantine
    )


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Reads images into raw examples.

    TFX's file-based driver is not used: it stats every file a second time, does not notice an image that was moved to
    another class, and Kubeflow Pipelines never runs it. Spans are resolved where the files are listed.

    Outputs:
      examples: Splits `train`, `validation` and, unless its fraction is 0, `test`; TFRecords of tf.Example with the
        features of `trainer_module.features`; `classes.json`; properties `span` and `version`.
      quarantine: Every file that is not used, with the reason; exact and near duplicates; counts.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(self, *, input_base: str, options: ExampleGenOptions, source_hash: str) -> None:
        """Configures the component.

        Args:
          input_base: Location of the dataset: a folder, a manifest, or a path with `{SPAN}`.
          options: Options of the executor.
          source_hash: Hash of the node's code: an edit runs it again.
        """
        super().__init__(
            spec=ImageExampleGenSpec(
                input_base=input_base,
                options=options.parameter().model_dump_json(),
                source_hash=source_hash,
                examples=channel.Channel(type=standard_artifacts.Examples),
                quarantine=channel.Channel(type=components.Quarantine),
            )
        )
