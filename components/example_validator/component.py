"""ExampleValidator as a gate: as TFX's, but an anomaly, or drift against the span before, stops the run."""

from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel, component_spec, standard_artifacts, standard_component_specs

from components.example_validator import executor
from components.example_validator.options import DriftOptions


class ImageExampleValidatorSpec(standard_component_specs.ExampleValidatorSpec):
    """TFX's, with what an earlier span left."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.ExampleValidatorSpec.PARAMETERS,
        "options": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.ExampleValidatorSpec.INPUTS,
        "previous_statistics": component_spec.ChannelParameter(
            type=standard_artifacts.ExampleStatistics, optional=True
        ),
        "previous_schema": component_spec.ChannelParameter(type=standard_artifacts.Schema, optional=True),
    }


class ImageExampleValidator(base_component.BaseComponent):
    """Checks the statistics of every split against this span's schema and against the span before.

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
        """Takes what the instance needs.

        Args:
          statistics: From StatisticsGen.
          schema: From SchemaGen.
          previous_statistics: Of the newest earlier span that passed; may resolve to nothing.
          previous_schema: Of the same.
          options: What counts as drift, and what follows from it.
          source_hash: Of the code behind this node: an edit runs it again.
        """
        super().__init__(
            spec=ImageExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                previous_statistics=previous_statistics,
                previous_schema=previous_schema,
                exclude_splits="[]",
                options=options.model_dump_json(),
                source_hash=source_hash,
                anomalies=channel.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
