"""ImageExampleValidator: TFX's ExampleValidator as a gate, which also detects drift and skew."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel, standard_artifacts, standard_component_specs

from components import specs
from components.example_validator import executor
from components.example_validator.options import DriftOptions


class ImageExampleValidatorSpec(standard_component_specs.ExampleValidatorSpec):
    """Inputs, outputs and parameters of ImageExampleValidator."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("options", "source_hash")
    INPUTS: ClassVar[dict[str, Any]] = standard_component_specs.ExampleValidatorSpec.INPUTS | specs.optional_artifacts(
        previous_statistics=standard_artifacts.ExampleStatistics, previous_schema=standard_artifacts.Schema
    )


class ImageExampleValidator(base_component.BaseComponent):
    """Validates the statistics of every split against the schema of this span and against the previous span.

    Outputs:
      anomalies: As TFX's, and `drift.json`.
    """

    SPEC_CLASS = ImageExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        statistics: BaseChannel,
        schema: BaseChannel,
        previous_statistics: BaseChannel,
        previous_schema: BaseChannel,
        options: DriftOptions,
        source_hash: str,
    ) -> None:
        """Creates the node.

        Args:
          statistics: From StatisticsGen.
          schema: From SchemaGen.
          previous_statistics: The statistics of the newest blessed earlier span; may resolve to nothing.
          previous_schema: Its schema.
          options: Thresholds, and what follows from a difference.
          source_hash: Hash of the code of this node: after an edit the node runs again.
        """
        super().__init__(
            spec=ImageExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                previous_statistics=previous_statistics,
                previous_schema=previous_schema,
                options=options.model_dump_json(),
                source_hash=source_hash,
                anomalies=channel.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
