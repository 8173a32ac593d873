"""SchemaGen for pictures: as TFX's, with a schema that the next pictures can be checked against."""

import json
from typing import Any, ClassVar

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, channel, component_spec, standard_artifacts, standard_component_specs

from components.schema_gen import executor


class ImageSchemaGenSpec(standard_component_specs.SchemaGenSpec):
    """TFX's, with how the schema is curated."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.SchemaGenSpec.PARAMETERS,
        "options": component_spec.ExecutionParameter(type=str),
    }


class ImageSchemaGen(base_component.BaseComponent):
    """Infers the schema from the statistics of the train split; see `executor.curate`."""

    SPEC_CLASS = ImageSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        statistics: BaseChannel,
        exclude_splits: list[str],
        domain_margin: float,
        classes: tuple[str, ...],
        label_features: tuple[str, ...],
    ) -> None:
        """Takes what the instance needs.

        Args:
          statistics: From StatisticsGen.
          exclude_splits: Splits that are not inferred from; their ranges count all the same.
          domain_margin: How far ranges are widened, as a part of them.
          classes: Class names.
          label_features: Raw example features of the label.
        """
        super().__init__(
            spec=ImageSchemaGenSpec(
                statistics=statistics,
                infer_feature_shape=1,
                exclude_splits=json.dumps(exclude_splits),
                options=json.dumps(
                    {"domain_margin": domain_margin, "classes": classes, "label_features": label_features}
                ),
                schema=channel.Channel(type=standard_artifacts.Schema),
            )
        )
