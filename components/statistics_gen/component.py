"""ImageStatisticsGen: TFX's StatisticsGen in fewer Beam stages."""

from tfx.components import StatisticsGen
from tfx.dsl.components.base import executor_spec

from components.statistics_gen import executor


class ImageStatisticsGen(StatisticsGen):
    """TFX's StatisticsGen with an executor that reads the examples once; inputs and outputs are the same."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
