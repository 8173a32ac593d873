"""The options that Trainer stores beside a model: with tuned values, and with what the task chooses after training."""

from __future__ import annotations

from trainer_module import features, locations
from trainer_module.options import TrainerOptions


def read(model_run: str) -> TrainerOptions:
    """Reads the options of a `model_run` artifact."""
    return TrainerOptions.model_validate_json(locations.read(locations.join(model_run, features.OPTIONS_FILE)))


def with_trained_network(options: TrainerOptions, model_run: str) -> TrainerOptions:
    """Replaces `[task]` and `[model]` by those of a trained model.

    Its predictions may depend on what was chosen after training, and its views on strides that Tuner has changed.

    Args:
      options: The configuration of the run.
      model_run: Location of the `model_run` artifact; without stored options, those of the run are returned.
    """
    try:
        stored = read(model_run)
    except FileNotFoundError:
        return options
    return options.model_copy(update={"task": stored.task, "model": stored.model})
