"""The folder is the registry: one file per task, which exports its `TASK`, a `TaskSpec`."""

from __future__ import annotations

from trainer_module.registry import Registry
from trainer_module.tasks._spec import ChosenExplanationMethod as ChosenExplanationMethod
from trainer_module.tasks._spec import Comparison as Comparison
from trainer_module.tasks._spec import Endpoint as Endpoint
from trainer_module.tasks._spec import Explanation as Explanation
from trainer_module.tasks._spec import ExplanationMethod as ExplanationMethod
from trainer_module.tasks._spec import Instances as Instances
from trainer_module.tasks._spec import Labeling as Labeling
from trainer_module.tasks._spec import LabelStatistic as LabelStatistic
from trainer_module.tasks._spec import Monitoring as Monitoring
from trainer_module.tasks._spec import Objective as Objective
from trainer_module.tasks._spec import PredictionOutcomes as PredictionOutcomes
from trainer_module.tasks._spec import RawLabel as RawLabel
from trainer_module.tasks._spec import Subject as Subject
from trainer_module.tasks._spec import Target as Target
from trainer_module.tasks._spec import TaskSpec as TaskSpec

DEFAULT = "classification"


_REGISTRY = Registry(__name__, "task", TaskSpec)
names, get = _REGISTRY.names, _REGISTRY.get
