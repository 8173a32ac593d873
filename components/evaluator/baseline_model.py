"""Reads the last blessed model as far as the comparison needs it: its class names and its outputs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from components.evaluator.class_lists import ClassLists
from components.serving_validator import graph_walk
from trainer_module import features, locations

_OTHER_TASK = "The last blessed model is not compared: its signatures have other outputs, as those of another task."


@dataclass(frozen=True)
class BaselineModel:
    """The last blessed model.

    Attributes:
      path: Folder of its SavedModel; None if there is none that can be compared.
      lists: The class lists of both models; None if there is no blessed model.
      not_comparable: Why it cannot be compared, in one sentence; empty if it can, or if there is none.
    """

    path: str | None = None
    lists: ClassLists | None = None
    not_comparable: str = ""

    @property
    def has_same_classes(self) -> bool:
        """Whether it can be compared on all classes."""
        return self.path is not None and self.lists is not None and self.lists.new == self.lists.blessed

    @property
    def shares_classes(self) -> bool:
        """Whether it can be compared on some of its classes only, or has them in another order."""
        return self.path is not None and not self.has_same_classes


def read(model_path: str, baseline_path: str | None, classes: tuple[str, ...]) -> BaselineModel:
    """Reads the last blessed model.

    Args:
      model_path: SavedModel of the new model.
      baseline_path: SavedModel of the last blessed model, if there is one.
      classes: Classes of the new model; the index is the id.
    """
    if baseline_path is None:
        return BaselineModel()
    lists = ClassLists(classes, tuple(json.loads(locations.read(os.path.join(baseline_path, features.LABELS_FILE)))))
    same_task = _outputs(model_path) == _outputs(baseline_path)
    reason = lists.not_comparable if same_task else _OTHER_TASK
    return BaselineModel(None if reason else baseline_path, lists, reason)


def _outputs(export_dir: str) -> set[str]:
    """Reads the names of the outputs of an exported model."""
    return set(graph_walk.read(export_dir).meta_graphs[0].signature_def[features.EXAMPLES].outputs)
