"""TableTuner: TFX's Tuner with a table of the trials."""

from tfx.components import Tuner
from tfx.dsl.components.base import executor_spec

from components.tuner import executor


class TableTuner(Tuner):
    """TFX's Tuner with an executor that adds `trials.csv` to the tuner results."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
