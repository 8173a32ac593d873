"""ExampleValidator as a gate: as TFX's, but an anomaly stops the run."""

from tfx.components import ExampleValidator
from tfx.dsl.components.base import executor_spec

from components.example_validator import executor


class ImageExampleValidator(ExampleValidator):
    """TFX's ExampleValidator with another executor; inputs, outputs and parameters are the same."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
