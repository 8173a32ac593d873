"""The options that Trainer stores beside a model: with tuned values, and with what the task chooses after training."""

from __future__ import annotations

from trainer_module import features, locations
from trainer_module.options import TrainerOptions


def read(model_run: str) -> TrainerOptions:
    """Reads the options of a `model_run` artifact."""
    return TrainerOptions.model_validate_json(locations.read(locations.join(model_run, features.OPTIONS_FILE)))


def with_stored_task(options: TrainerOptions, model_run: str) -> TrainerOptions:
    """Replaces `[task]` by that of a trained model, whose predictions may depend on what was chosen after training.

    Args:
      options: The configuration of the run.
      model_run: Location of the `model_run` artifact; without stored options, those of the run are returned.
    """
    try:
        return options.model_copy(update={"task": read(model_run).task})
    except FileNotFoundError:
        return options
