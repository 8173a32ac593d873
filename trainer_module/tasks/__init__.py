"""The folder is the registry: one file per task, which exports its `TASK`, a `TaskSpec`."""

from __future__ import annotations

import sys

from trainer_module import registry
from trainer_module.tasks._spec import Comparison as Comparison
from trainer_module.tasks._spec import Explanation as Explanation
from trainer_module.tasks._spec import Objective as Objective
from trainer_module.tasks._spec import PredictionOutcomes as PredictionOutcomes
from trainer_module.tasks._spec import TaskSpec as TaskSpec

DEFAULT = "classification"


def names() -> list[str]:
    """Names of all tasks, in alphabetical order."""
    return registry.names(sys.modules[__name__])


def get(name: str) -> TaskSpec:
    """Returns the record of one task; importing it imports neither TensorFlow nor Keras.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    spec: TaskSpec = registry.get(sys.modules[__name__], "task", name).TASK
    return spec
