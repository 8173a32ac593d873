"""Where Tuner looks: `[tuner]`, and how numbers get into a configuration by their names. Imports no TensorFlow."""

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

# Sections whose numbers can be tuned. Nothing behind Trainer reads them: what a tuned model is asked, and how, is the
# same as without.
SECTIONS = ("training", "augmentation", "model", "task", "fine_tuning")

# How long a trial takes is `tuner.epochs`'s business, and a lucky seed is no better setting.
NOT_TUNED = ("training.epochs", "training.seed", "fine_tuning.epochs")

# Numbers that are read under a condition: their names, or how these begin; when, and whether that holds of a
# configuration.
_READ_WHEN: dict[str, tuple[str, Callable[[Any], bool]]] = {
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

# What Hyperband divides the trials of a round by, and multiplies their epochs by, for the next one.
HYPERBAND_FACTOR = 3

_MOST_VALUES = 1000


class Range(Section):
    """The values of one field: from `min` to `max`, or `choices`."""

    min: Number | None = Field(default=None, description="Smallest value.")
    max: Number | None = Field(default=None, description="Largest value.")
    step: Number | None = Field(
        default=None, gt=0, description="Distance of the values; with `log` the factor between them. Any when absent."
    )
    sampling: Literal["linear", "log"] = Field(
        default="linear", description="`log` tries 0.001 to 0.01 as often as 0.01 to 0.1."
    )
    choices: tuple[Number, ...] | None = Field(
        default=None, min_length=1, description="The values themselves, instead of the other keys."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        if self.choices is not None:
            if (self.min, self.max, self.step, self.sampling) != (None, None, None, "linear"):
                raise ValueError("choices stand alone, without min, max, step and sampling")
            return self
        if self.min is None or self.max is None:
            raise ValueError("needs min and max, or choices")
        if not self.min < self.max:
            raise ValueError(f"min must be below max (given: {self.min:g} and {self.max:g})")
        if self.sampling == "log" and self.min <= 0:
            raise ValueError(f'sampling = "log" needs a min above 0 (given: {self.min:g})')
        if self.sampling == "log" and self.step is not None and self.step <= 1:
            raise ValueError(f'with sampling = "log" step is a factor, above 1 (given: {self.step:g})')
        if self.step is not None and self._num_steps() >= _MOST_VALUES:
            raise ValueError(f"step leaves more than {_MOST_VALUES} values; enlarge it, or leave it out")
        return self

    def bounds(self) -> tuple[Number, Number]:
        """The smallest and the largest value."""
        ends = [end for end in self.choices or (self.min, self.max) if end is not None]
        return min(ends), max(ends)

    def values(self) -> tuple[Number, ...] | None:
        """The values, if they can be counted.

        KerasTuner counts steps in floating point, and for 0.2 to 0.6 by 0.1 never tries 0.6.
        """
        if self.choices is not None or self.step is None:
            return self.choices
        low, steps = self.bounds()[0], range(self._num_steps() + 1)
        is_log = self.sampling == "log"
        return tuple(round(low * self.step**index if is_log else low + self.step * index, 12) for index in steps)

    def limited(self, value: Number) -> Number:
        """The nearest value that is not outside of the bounds."""
        low, high = self.bounds()
        return min(max(value, low), high)

    def _num_steps(self) -> int:
        (low, high), step = self.bounds(), self.step or 1
        steps = math.log(high / low, step) if self.sampling == "log" else (high - low) / step
        return math.floor(steps + 1e-6)


class TunerOptions(Section):
    """`[tuner]`: the search for better numbers before the model is trained."""

    enabled: bool = Field(default=False, description="Whether Tuner runs, and Trainer takes what it found.")
    algorithm: Literal["random", "bayesian", "hyperband"] = Field(
        default="random",
        description="`random` draws; `bayesian` draws three trials a field, then models the objective by a Gaussian "
        "process; `hyperband` tries many values for few epochs and goes on with the best third.",
    )
    trials: int = Field(default=10, ge=1, le=10_000, description="Most trainings; fewer where the values run out.")
    epochs: int = Field(
        default=5,
        ge=1,
        le=10_000,
        description="Most epochs of a trial, in each phase; training.epochs and fine_tuning.epochs still hold.",
    )
    objective: str = Field(
        default="val_loss",
        description="Value of the validation split that is compared at the end of a trial: `val_loss`, or a metric of "
        "the task such as `val_accuracy` or `val_mean_iou`.",
    )
    max_examples: int | None = Field(
        default=None, ge=1, description="Pictures of the train split that trials learn from; all when absent."
    )
    space: dict[str, Range] = Field(
        default={"training.learning_rate": Range(min=1e-4, max=1e-2, sampling="log")},
        min_length=1,
        description="What is tuned: the name of a number in the configuration, and its values.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _by_section(cls, value: Any) -> Any:
        """`training.learning_rate = …` in TOML is a table in a table, unless the name is quoted; both are meant."""
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
    """Trials of equal length, the best of which are trained anew in the next round."""

    trials: int
    epochs: int


def hyperband_rounds(epochs: int) -> list[Round]:
    """The first bracket, as KerasTuner counts: no other one begins with fewer epochs.

    Args:
      epochs: Of the last round.
    """
    halvings = 0
    while epochs >= HYPERBAND_FACTOR ** (halvings + 1):
        halvings += 1
    last = math.ceil(1 + math.log(epochs, HYPERBAND_FACTOR)) / (halvings + 1)
    factors = [HYPERBAND_FACTOR**left for left in range(halvings, -1, -1)]
    return [Round(math.ceil(last * factor), math.ceil(epochs / factor)) for factor in factors]


def check_room_for_halving(options: Any, tuner: TunerOptions) -> None:
    """Refuses a Hyperband that has nothing to halve, or ends before its last round.

    Args:
      options: Has the sections.
      tuner: The search.

    Raises:
      ValueError: If there are too few epochs or trials.
    """
    if tuner.algorithm != "hyperband":
        return
    epochs = longest_trial(options, tuner)
    if epochs < HYPERBAND_FACTOR:
        raise ValueError(
            f'tuner.algorithm = "hyperband" begins with a part of the epochs: tuner.epochs and training.epochs must be '
            f"{HYPERBAND_FACTOR} or more (given: {tuner.epochs} and {options.training.epochs})"
        )
    needed = sum(found.trials for found in hyperband_rounds(epochs))
    if tuner.trials < needed:
        raise ValueError(
            f'tuner.algorithm = "hyperband" with trials of {epochs} epochs needs tuner.trials = {needed} or more, or '
            f"nothing is trained that long (given: {tuner.trials})"
        )


def longest_trial(options: Any, tuner: TunerOptions) -> int:
    """Most epochs of any trial, in the first phase.

    Args:
      options: Has the sections.
      tuner: The search.
    """
    epochs: int = min(tuner.epochs, options.training.epochs)
    return epochs


def shortest_trial(options: Any, tuner: TunerOptions) -> int:
    """Most epochs of those trials that have the fewest.

    Args:
      options: Has the sections.
      tuner: The search.
    """
    epochs = longest_trial(options, tuner)
    return hyperband_rounds(epochs)[0].epochs if tuner.algorithm == "hyperband" else epochs


def missing_condition(options: Any, name: str) -> str:
    """What a number would need to have an effect; empty if it has one.

    Args:
      options: Has the sections.
      name: One of `numeric_fields`.
    """
    for key, (text, holds) in _READ_WHEN.items():
        if name.startswith(key) and not holds(options):
            return text
    condition = tasks.get(options.task.name).option_conditions.get(name.removeprefix("task."))
    return condition.text if name.startswith("task.") and condition and not condition.holds(options.task) else ""


def changes_loss(options: Any, name: str) -> bool:
    """Whether a number is part of the loss itself, so that losses of two trials cannot be compared.

    Args:
      options: Has the sections.
      name: One of `numeric_fields`.
    """
    return name in {f"task.{key}" for key in tasks.get(options.task.name).loss_options}


def objective(task: str, name: str) -> tasks.Objective:
    """Returns the objective of that name.

    Args:
      task: Name of the task.
      name: Column of the training history.

    Raises:
      ValueError: If the task has no such objective; the message lists those that it has.
    """
    known = {entry.name: entry for entry in tasks.get(task).objectives}
    if name not in known:
        suggestion = did_you_mean(name, known) or f". It has: {', '.join(known)}."
        raise ValueError(f"tuner.objective: {task} has no `{name}`{suggestion}")
    return known[name]


def shown(value: Number) -> str:
    """A number for people: four digits tell rates apart, and of integers all are meant."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def numeric_fields(options: Section) -> dict[str, type[int] | type[float]]:
    """All fields that can be tuned, with their types.

    Args:
      options: Has the sections.
    """
    found = {}
    for section in SECTIONS:
        for key, field in type(getattr(options, section)).model_fields.items():
            kind = _number_type(field.annotation)
            if kind and f"{section}.{key}" not in NOT_TUNED:
                found[f"{section}.{key}"] = kind
    return found


def _number_type(annotation: Any) -> type[int] | type[float] | None:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        numbers = [_number_type(part) for part in typing.get_args(annotation) if part is not type(None)]
        return numbers[0] if len(numbers) == 1 else None
    return annotation if annotation in (int, float) else None


def with_values(options: Options, values: Mapping[str, Any], context: Mapping[str, Any] | None = None) -> Options:
    """A configuration with other values, validated anew.

    Args:
      options: Any configuration of sections.
      values: By the name of the field, `section.key`.
      context: What validators are told, as when the configuration was read.

    Raises:
      ValidationError: If a value, or how it goes with the others, is not allowed.
    """
    table = options.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        table[section][key] = value
    return type(options).model_validate(table, context=context)


def trial_length(options: Any, epochs: int) -> dict[str, int]:
    """The fields that make a training as short as a trial.

    Args:
      options: Has the sections.
      epochs: At most, in each phase.
    """
    return {
        "training.epochs": min(options.training.epochs, epochs),
        "fine_tuning.epochs": min(options.fine_tuning.epochs, epochs),
    }


def found_values(hyperparameters: Mapping[str, Any]) -> dict[str, Number]:
    """The values of our fields in a HyperParameters artifact.

    Args:
      hyperparameters: KerasTuner's JSON; Hyperband keeps its own counters among the values.
    """
    return {name: value for name, value in hyperparameters["values"].items() if not name.startswith("tuner/")}
