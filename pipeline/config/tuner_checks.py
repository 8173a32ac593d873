"""Checks that the search of `[tuner]` is possible with the rest of the configuration."""

from __future__ import annotations

import typing

from pydantic import ValidationError

from trainer_module import search_space
from trainer_module.error_text import did_you_mean

if typing.TYPE_CHECKING:
    from pipeline.config.sections import PipelineConfig


def check(config: PipelineConfig) -> None:
    """Refuses a search that cannot succeed; called when the configuration is validated.

    Raises:
      ValueError: With everything that is wrong.
    """
    if config.training.distribution == "multi_worker":
        raise ValueError(
            'training.distribution = "multi_worker" and tuner.enabled do not go together: every worker would '
            "search by itself. Search first, and set what was found"
        )
    search_space.objective(config.task.name, config.tuner.objective)
    search_space.check_room_for_halving(config, config.tuner)
    _check_shortest_trial(config)
    mistakes = [text for name in config.tuner.space for text in _mistakes_in_space(config, name)]
    if mistakes:
        raise ValueError("\n  ".join(mistakes))


def _in_shortest_trial(config: PipelineConfig, values: dict[str, search_space.Number]) -> str:
    """What is wrong with the whole configuration of a trial; with the shortest, as the others have more room."""
    length = search_space.trial_length(config, search_space.shortest_trial(config, config.tuner))
    try:
        search_space.with_values(config, {"tuner.enabled": False} | length | values, context={"needs_data": False})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return ""


def _check_shortest_trial(config: PipelineConfig) -> None:
    if mistake := _in_shortest_trial(config, {}):
        raise ValueError(f"tuner.epochs = {config.tuner.epochs} leaves the shortest trials too few of them: {mistake}")


def _mistakes_in_space(config: PipelineConfig, name: str) -> list[str]:
    """What is wrong with one field of `tuner.space`, a sentence each."""
    known = search_space.numeric_fields(config)
    section, _, key = name.partition(".")
    where = f"tuner.space: `{name}`"
    if name in search_space.NOT_TUNED:
        return [f"{where} is not tuned: tuner.epochs says how long a trial is, and a lucky seed is no better setting"]
    if name not in known:
        if section in search_space.SECTIONS and key in type(getattr(config, section)).model_fields:
            return [f"{where} is no number. Numbers in [{section}]: {', '.join(_of_section(known, section))}."]
        some = _of_section(known, section) or list(known)
        return [f"{where} is unknown{did_you_mean(name, known) or '. Numbers: ' + ', '.join(some) + '.'}"]
    if needed := search_space.missing_condition(config, name):
        return [f"{where} has no effect: it is read only with {needed}"]
    if search_space.changes_loss(config, name) and config.tuner.objective == "val_loss":
        return [f"{where} changes the loss itself, which then compares nothing: set another tuner.objective"]
    # Each value is put into the whole configuration, as a trial will do it: whatever is refused there is refused here.
    chosen = config.tuner.space[name]
    for value in chosen.values() or chosen.bounds():
        if mistake := _in_shortest_trial(config, {name: value}):
            return [f"{where} = {value:g}: {mistake}"]
    return []


def _of_section(names: typing.Iterable[str], section: str) -> list[str]:
    return [name for name in names if name.startswith(f"{section}.")]
