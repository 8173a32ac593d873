"""Transform for pictures: as TFX's, computed in fewer Beam stages."""

from tfx.components import Transform
from tfx.dsl.components.base import executor_spec

from components.transform import executor


class ImageTransform(Transform):
    """TFX's Transform with another executor, which writes a transform graph and nothing else."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
