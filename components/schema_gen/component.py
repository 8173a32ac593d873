"""SchemaGen for pictures: as TFX's, with a schema that the next pictures can be checked against."""

from tfx.components import SchemaGen
from tfx.dsl.components.base import executor_spec

from components.schema_gen import executor


class ImageSchemaGen(SchemaGen):
    """TFX's SchemaGen with another executor; inputs, outputs and parameters are the same."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
