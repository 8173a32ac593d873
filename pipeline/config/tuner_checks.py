"""Checks of `[tuner]` against the rest of the configuration."""

from __future__ import annotations

import typing

from pydantic import ValidationError

from trainer_module import search_space
from trainer_module.error_text import did_you_mean

if typing.TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig


def check(config: PipelineConfig) -> None:
    """Checks that the search can succeed; called when the configuration is validated.

    Raises:
      ValueError: With all errors.
    """
    if config.training.distribution == "multi_worker":
        raise ValueError(
            'training.distribution = "multi_worker" and tuner.enabled do not fit together: every worker would search '
            "separately. Search first, and set the values that it finds"
        )
    search_space.objective(config.task.name, config.tuner.objective)
    search_space.check_hyperband(config, config.tuner)
    _check_shortest_trial(config)
    errors = [error for name in config.tuner.space if (error := _error_in_space(config, name))]
    if errors:
        raise ValueError("\n  ".join(errors))


def _in_shortest_trial(config: PipelineConfig, values: dict[str, search_space.Number]) -> str:
    """The error of the shortest trial's configuration with these values; empty if it is valid."""
    length = search_space.trial_epochs(config, search_space.min_trial_epochs(config, config.tuner))
    try:
        search_space.replace_values(config, {"tuner.enabled": False} | length | values, context={"needs_data": False})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return ""


def _check_shortest_trial(config: PipelineConfig) -> None:
    if message := _in_shortest_trial(config, {}):
        raise ValueError(
            f"tuner.epochs = {config.tuner.epochs} leaves too few epochs for the shortest trials: {message}"
        )


def _error_in_space(config: PipelineConfig, name: str) -> str:
    """The error of one setting of `tuner.space`; empty if it is valid."""
    known = search_space.numeric_fields(config)
    section, _, key = name.partition(".")
    prefix = f"tuner.space: `{name}`"
    if name in search_space.NOT_TUNED:
        return f"{prefix} cannot be tuned: tuner.epochs sets the length of a trial, and a lucky seed is not a setting"
    if name not in known:
        if section in search_space.SECTIONS and key in type(getattr(config, section)).model_fields:
            return f"{prefix} is not a number. Numbers in [{section}]: {', '.join(_in_section(known, section))}."
        some = _in_section(known, section) or list(known)
        return f"{prefix} is unknown{did_you_mean(name, known) or '. Numbers: ' + ', '.join(some) + '.'}"
    if condition := search_space.missing_condition(config, name):
        return f"{prefix} has no effect: it requires {condition}"
    if search_space.changes_loss(config, name) and config.tuner.objective == "val_loss":
        return f"{prefix} changes the loss, so losses of trials cannot be compared: set another tuner.objective"
    # A trial sets the value in the whole configuration: check that with every value.
    values = config.tuner.space[name]
    for value in values.values() or values.bounds():
        if message := _in_shortest_trial(config, {name: value}):
            return f"{prefix} = {value:g}: {message}"
    return ""


def _in_section(names: typing.Iterable[str], section: str) -> list[str]:
    return [name for name in names if name.startswith(f"{section}.")]
