"""Compares the class list of a model with that of the last blessed one. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2

from trainer_module.error_text import listed

_FEWEST_SHARED = 2  # with one class, every prediction is correct


@dataclass(frozen=True)
class ClassLists:
    """The class lists of two models.

    Attributes:
      new: Classes of the new model, in the order of their ids.
      blessed: Classes of the last blessed model, in the order of theirs.
    """

    new: tuple[str, ...]
    blessed: tuple[str, ...]

    @property
    def shared(self) -> tuple[str, ...]:
        """The classes that both models have, in the order of the new one."""
        return tuple(name for name in self.new if name in set(self.blessed))

    @property
    def added(self) -> tuple[str, ...]:
        """The classes that only the new model has."""
        return tuple(name for name in self.new if name not in set(self.blessed))

    @property
    def removed(self) -> tuple[str, ...]:
        """The classes that only the last blessed model has."""
        return tuple(name for name in self.blessed if name not in set(self.new))

    @property
    def not_comparable(self) -> str:
        """Why the models cannot be compared, in one sentence; empty if they can."""
        if len(self.shared) >= _FEWEST_SHARED:
            return ""
        return (
            f"The last blessed model is not compared: its classes {listed(self.blessed)} include "
            f"{len(self.shared) or 'none'} of this model's {len(self.new):,} classes."
        )

    def shared_ids(self, classes: Sequence[str]) -> list[int]:
        """Returns the id among the shared classes of every class of a list, -1 if it is not shared."""
        ids = {name: index for index, name in enumerate(self.shared)}
        return [ids.get(name, -1) for name in classes]


def ignore_id(eval_config: str) -> int | None:
    """Reads the id of pixels that do not count from TFMA's configuration as JSON; None if there is none."""
    metric = next(_task_metrics(json_format.Parse(eval_config, config_pb2.EvalConfig())), None)
    ignored: int | None = json.loads(metric.config).get("ignore_id") if metric else None
    return ignored


def _task_metrics(eval_config: config_pb2.EvalConfig) -> Iterator[config_pb2.MetricConfig]:
    """Yields the metrics of the task, as `pipeline.eval_config` writes them."""
    for metrics in eval_config.metrics_specs:
        yield from (metric for metric in metrics.metrics if metric.class_name == "TaskMetrics")


def eval_config_of_shared_classes(eval_config: str, lists: ClassLists, candidate: str, baseline: str) -> str:
    """Restricts an evaluation to the shared classes.

    Args:
      eval_config: TFMA's configuration as JSON, of `pipeline.eval_config`.
      lists: The classes of both models.
      candidate: TFMA's name of the new model.
      baseline: TFMA's name of the last blessed model.

    Returns:
      The configuration as JSON.
    """
    config = json_format.Parse(eval_config, config_pb2.EvalConfig())
    ids_of_dataset = lists.shared_ids(lists.new)
    shared = {
        name: {"model": lists.shared_ids(classes), "dataset": ids_of_dataset}
        for name, classes in ((candidate, lists.new), (baseline, lists.blessed))
    }
    for metric in _task_metrics(config):
        parameters = json.loads(metric.config) | {"num_classes": len(lists.shared), "shared": shared}
        metric.config = json.dumps(parameters, sort_keys=True)
    return str(json_format.MessageToJson(config))
