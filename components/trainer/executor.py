"""Executor of ImageTrainer: TFX's training, with the classes of the examples."""

from __future__ import annotations

from typing import Any

from tfx.components.trainer import executor

from components import classes
from components.artifacts import Artifacts


class Executor(executor.GenericExecutor):
    """TFX's executor of a run_fn whose `custom_config["options"]` is TrainerOptions."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Trains; the keys are those of TFX, and `options` in `custom_config` lacks `classes`."""
        super().Do(input_dict, output_dict, classes.with_options(exec_properties, input_dict))
