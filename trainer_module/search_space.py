"""The search space of Tuner: `[tuner]`, and configurations with tuned values. Imports no TensorFlow.

The argument `options` is any configuration with the sections of `SECTIONS`, `name` a key of `numeric_fields`.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field, field_validator, model_validator

from trainer_module import tasks
from trainer_module.error_text import did_you_mean
from trainer_module.section import Section

Number = int | float
Options = TypeVar("Options", bound=Section)

# Sections whose numbers can be tuned. After Trainer, nodes read those that Trainer has stored beside the model.
SECTIONS = ("training", "augmentation", "model", "task", "fine_tuning")

# `tuner.epochs` sets the length of a trial, and a lucky seed is not a better setting.
NOT_TUNED = ("training.epochs", "training.seed", "fine_tuning.epochs")

# Numbers that have an effect only under a condition: prefix of their names → the condition as text and as predicate.
_CONDITIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "training.momentum": ('training.optimizer = "sgd"', lambda options: options.training.optimizer == "sgd"),
    "training.weight_decay": (
        'training.optimizer = "adamw" or "sgd"',
        lambda options: options.training.optimizer in ("adamw", "sgd"),
    ),
    "training.warmup_epochs": ('training.schedule = "cosine"', lambda options: options.training.schedule == "cosine"),
    "training.plateau_": ('training.schedule = "plateau"', lambda options: options.training.schedule == "plateau"),
    "model.depth": ("model.encoder empty", lambda options: not options.model.encoder),
    "fine_tuning.": ("fine_tuning.epochs above 0", lambda options: options.fine_tuning.epochs > 0),
}

# For the next round, Hyperband divides the number of trials by this factor and multiplies their epochs by it.
HYPERBAND_FACTOR = 3

_MAX_VALUES = 1000


class Range(Section):
    """The values of one field: from `min` to `max`, or `choices`."""

    min: Number | None = Field(default=None, description="Smallest value.")
    max: Number | None = Field(default=None, description="Largest value.")
    step: Number | None = Field(
        default=None,
        gt=0,
        description="Distance between values; with `log` the factor between them. If absent, any value.",
    )
    sampling: Literal["linear", "log"] = Field(
        default="linear", description="`log` samples 0.001 to 0.01 as often as 0.01 to 0.1."
    )
    choices: tuple[Number, ...] | None = Field(
        default=None, min_length=1, description="List of values, instead of the other keys."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        if self.choices is not None:
            if (self.min, self.max, self.step, self.sampling) != (None, None, None, "linear"):
                raise ValueError("choices excludes min, max, step and sampling: remove one or the other")
            return self
        if self.min is None or self.max is None:
            raise ValueError("requires min and max, or choices")
        if not self.min < self.max:
            raise ValueError(f"min must be below max (given: {self.min:g} and {self.max:g})")
        if self.sampling == "log" and self.min <= 0:
            raise ValueError(f'sampling = "log" requires min above 0 (given: {self.min:g})')
        if self.sampling == "log" and self.step is not None and self.step <= 1:
            raise ValueError(f'with sampling = "log" step is a factor and must be above 1 (given: {self.step:g})')
        if self.step is not None and self._num_steps() >= _MAX_VALUES:
            raise ValueError(f"step gives more than {_MAX_VALUES} values: increase or remove it")
        return self

    def bounds(self) -> tuple[Number, Number]:
        """Returns the smallest and the largest value."""
        ends = [end for end in self.choices or (self.min, self.max) if end is not None]
        return min(ends), max(ends)

    def values(self) -> tuple[Number, ...] | None:
        """Returns all values, or None if the range is continuous.

        KerasTuner counts steps in floating point and never tries 0.6 for 0.2 to 0.6 with step 0.1.
        """
        if self.choices is not None or self.step is None:
            return self.choices
        low, steps = self.bounds()[0], range(self._num_steps() + 1)
        is_log = self.sampling == "log"
        return tuple(round(low * self.step**index if is_log else low + self.step * index, 12) for index in steps)

    def clip(self, value: Number) -> Number:
        """Limits a value to the bounds."""
        low, high = self.bounds()
        return min(max(value, low), high)

    def _num_steps(self) -> int:
        (low, high), step = self.bounds(), self.step or 1
        steps = math.log(high / low, step) if self.sampling == "log" else (high - low) / step
        return math.floor(steps + 1e-6)


class TunerOptions(Section):
    """`[tuner]`: the search for better hyperparameters before the training."""

    enabled: bool = Field(default=False, description="Whether Tuner runs and Trainer uses its values.")
    algorithm: Literal["random", "bayesian", "hyperband"] = Field(
        default="random",
        description="`random` draws values; `bayesian` draws three trials per field, then models the objective with a "
        "Gaussian process; `hyperband` trains many values for few epochs and continues with the best third.",
    )
    trials: int = Field(
        default=10, ge=1, le=10_000, description="Maximum number of trials; fewer if all values have been tried."
    )
    epochs: int = Field(
        default=5,
        ge=1,
        le=10_000,
        description="Maximum number of epochs per phase of a trial; training.epochs and fine_tuning.epochs apply too.",
    )
    objective: str = Field(
        default="val_loss",
        description="Validation metric by which trials are compared: `val_loss`, or a metric of the task such as "
        "`val_accuracy` or `val_mean_iou`.",
    )
    max_examples: int | None = Field(
        default=None, ge=1, description="Maximum number of train images in a trial; all if absent."
    )
    space: dict[str, Range] = Field(
        default={"training.learning_rate": Range(min=1e-4, max=1e-2, sampling="log")},
        min_length=1,
        description="Tuned fields: the name of a number in the configuration, and its values.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _by_section(cls, value: Any) -> Any:
        """Accepts `training.learning_rate = …`, a table in a table in TOML, like the quoted name."""
        if not isinstance(value, dict):
            return value
        flat: dict[str, Any] = {}
        for name, entry in value.items():
            if "." not in name and isinstance(entry, dict) and all(isinstance(inner, dict) for inner in entry.values()):
                flat |= {f"{name}.{key}": inner for key, inner in entry.items()}
            else:
                flat[name] = entry
        return flat


class Round(NamedTuple):
    """Trials of equal length, the best of which are trained again in the next round."""

    trials: int
    epochs: int


def hyperband_rounds(epochs: int) -> list[Round]:
    """Returns the rounds of KerasTuner's first bracket, which starts with the fewest epochs of all brackets.

    Args:
      epochs: Number of epochs of the last round.
    """
    num_reductions = 0
    while epochs >= HYPERBAND_FACTOR ** (num_reductions + 1):
        num_reductions += 1
    last = math.ceil(1 + math.log(epochs, HYPERBAND_FACTOR)) / (num_reductions + 1)
    factors = [HYPERBAND_FACTOR**power for power in range(num_reductions, -1, -1)]
    return [Round(math.ceil(last * factor), math.ceil(epochs / factor)) for factor in factors]


def check_hyperband(options: Any, tuner: TunerOptions) -> None:
    """Rejects a Hyperband search with too few epochs for two rounds, or too few trials for its first bracket.

    Raises:
      ValueError: If there are too few epochs or trials.
    """
    if tuner.algorithm != "hyperband":
        return
    epochs = max_trial_epochs(options, tuner)
    if epochs < HYPERBAND_FACTOR:
        raise ValueError(
            f'tuner.algorithm = "hyperband" starts with a fraction of the epochs: tuner.epochs and training.epochs '
            f"must be {HYPERBAND_FACTOR} or more (given: {tuner.epochs} and {options.training.epochs})"
        )
    required = sum(one_round.trials for one_round in hyperband_rounds(epochs))
    if tuner.trials < required:
        raise ValueError(
            f'tuner.algorithm = "hyperband" with trials of {epochs} epochs requires tuner.trials = {required} or more; '
            f"with fewer, no trial has that many epochs (given: {tuner.trials})"
        )


def max_trial_epochs(options: Any, tuner: TunerOptions) -> int:
    """Returns the number of epochs of the longest trials, in the first phase."""
    epochs: int = min(tuner.epochs, options.training.epochs)
    return epochs


def min_trial_epochs(options: Any, tuner: TunerOptions) -> int:
    """Returns the number of epochs of the shortest trials, in the first phase."""
    epochs = max_trial_epochs(options, tuner)
    return hyperband_rounds(epochs)[0].epochs if tuner.algorithm == "hyperband" else epochs


def missing_condition(options: Any, name: str) -> str:
    """Returns the condition under which a number has an effect; empty if the condition is met."""
    for key, (text, holds) in _CONDITIONS.items():
        if name.startswith(key) and not holds(options):
            return text
    condition = tasks.get(options.task.name).option_conditions.get(name.removeprefix("task."))
    return condition.text if name.startswith("task.") and condition and not condition.holds(options.task) else ""


def changes_loss(options: Any, name: str) -> bool:
    """Whether a number is part of the loss, so that losses of two trials are not comparable."""
    return name in {f"task.{key}" for key in tasks.get(options.task.name).loss_options}


def objective(task: str, name: str) -> tasks.Objective:
    """Returns the objective of a task with this name, a column of the training history.

    Raises:
      ValueError: If the task has no such objective; the message lists its objectives.
    """
    known = {entry.name: entry for entry in tasks.get(task).objectives}
    if name not in known:
        suggestion = did_you_mean(name, known) or f". Objectives: {', '.join(known)}."
        raise ValueError(f"tuner.objective: {task} has no objective `{name}`{suggestion}")
    return known[name]


def format_number(value: Number) -> str:
    """Formats an integer with all digits, another number with four."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def numeric_fields(options: Section) -> dict[str, type[int] | type[float]]:
    """Returns all fields that can be tuned, with their types."""
    number_types = {}
    for section in SECTIONS:
        for key, field in type(getattr(options, section)).model_fields.items():
            number_type = _number_type(field.annotation)
            if number_type and f"{section}.{key}" not in NOT_TUNED:
                number_types[f"{section}.{key}"] = number_type
    return number_types


def _number_type(annotation: Any) -> type[int] | type[float] | None:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        numbers = [_number_type(part) for part in typing.get_args(annotation) if part is not type(None)]
        return numbers[0] if len(numbers) == 1 else None
    return annotation if annotation in (int, float) else None


def replace_values(options: Options, values: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Options:
    """Returns a configuration with other values, validated.

    Args:
      options: Any configuration of sections.
      values: New values by the name of the field, `section.key`.
      context: Context of the validators, as when the configuration was read.

    Raises:
      ValidationError: If a value is invalid, or conflicts with another one.
    """
    table = options.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        table[section][key] = value
    return type(options).model_validate(table, context=context)


def trial_epochs(options: Any, epochs: int) -> dict[str, int]:
    """Returns the fields that limit each phase of a training to a number of epochs."""
    return {
        "training.epochs": min(options.training.epochs, epochs),
        "fine_tuning.epochs": min(options.fine_tuning.epochs, epochs),
    }


def tuned_values(hyperparameters: Mapping[str, Any]) -> dict[str, Number]:
    """Reads the values of the tuned fields from a HyperParameters artifact.

    Args:
      hyperparameters: KerasTuner's JSON, whose values include Hyperband's own counters.
    """
    return {name: value for name, value in hyperparameters["values"].items() if not name.startswith("tuner/")}
