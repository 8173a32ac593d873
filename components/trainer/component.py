"""ImageTrainer: TFX's Trainer with options that do not contain the classes."""

from tfx.components import Trainer
from tfx.dsl.components.base import executor_spec

from components.trainer import executor


class ImageTrainer(Trainer):
    """TFX's Trainer with an executor that completes the options with the classes of the examples."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
