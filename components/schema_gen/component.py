"""ImageSchemaGen: TFX's SchemaGen with a schema that the next span can be validated against."""

import json
from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel, standard_artifacts, standard_component_specs

from components import specs
from components.schema_gen import executor
from components.schema_gen.options import SchemaOptions


class ImageSchemaGenSpec(standard_component_specs.SchemaGenSpec):
    """Inputs, outputs and parameters of ImageSchemaGen."""

    PARAMETERS: ClassVar[dict[str, Any]] = standard_component_specs.SchemaGenSpec.PARAMETERS | specs.texts("options")


class ImageSchemaGen(base_component.BaseComponent):
    """Infers the schema from the statistics of the train split; see `curation.curate`.

    Outputs:
      schema: As TFX's.
    """

    SPEC_CLASS = ImageSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, statistics: BaseChannel, exclude_splits: list[str], options: SchemaOptions) -> None:
        """Creates the node.

        Args:
          statistics: From StatisticsGen.
          exclude_splits: Splits that the schema is not inferred from; only their ranges count.
          options: What the statistics do not tell.
        """
        super().__init__(
            spec=ImageSchemaGenSpec(
                statistics=statistics,
                infer_feature_shape=1,
                exclude_splits=json.dumps(exclude_splits),
                options=options.model_dump_json(),
                schema=channel.Channel(type=standard_artifacts.Schema),
            )
        )
