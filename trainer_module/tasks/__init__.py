"""What a model is asked for. The folder is the registry: one file a task, with its label, loss, metrics and signatures.

Every module gives
  `build_model(options, statistics)`, the network from pixels to logits;
  `transform_label(inputs, classes, options)` and `read_label(transformed, options)`, the label on its way from a raw
    example through the transform graph to a batch;
  `weighted(train_data, options)`, the data with weights where the pictures of some classes count more;
  `augmented(model, train_data, options)`, the model and the data to be fitted, and `changes(options)`, what that does
    to a batch;
  `loss(options, train_data)`, `metrics(options)`;
  `endpoints(...)`, the signatures of the export, of which `REQUIRED_SIGNATURES` may not be missing;
  `expected(model, options, image_bytes)` and `compare(answer, expected, options, tolerance)`, how an export is checked.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from trainer_module import registry

if TYPE_CHECKING:
    from trainer_module.options import TrainerOptions


def names() -> list[str]:
    """Names of all tasks, in alphabetical order."""
    return registry.names(sys.modules[__name__])


def get(name: str) -> ModuleType:
    """Imports the module of one task, and with it Keras.

    Raises:
      ValueError: If no module of that name is in this folder.
    """
    return registry.get(sys.modules[__name__], "task", name)


def of(options: TrainerOptions) -> ModuleType:
    """The task of a run: its model's."""
    return get(options.model.task)
