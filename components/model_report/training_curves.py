"""The training: curves, the best epoch, and the values that Tuner chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.model_report import charts
from components.model_report.charts import Chart
from components.model_report.tables import NO_VALUE, Cell, Column, Table, at_most, number
from trainer_module import features
from trainer_module.tasks import Objective

_MAX_ROWS = 300
_FORMAT = ".5g"
_PHASES = {"whole": "whole network", "head": "head", "fine_tuning": "fine-tuning"}


def _column(history: Sequence[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) if row.get(name) else math.nan for row in history]


def best_epoch(history: Sequence[dict[str, str]]) -> int | None:
    """Returns the epoch, from 1, with the lowest validation loss."""
    losses = [(loss, epoch) for epoch, loss in enumerate(_column(history, "val_loss"), start=1) if math.isfinite(loss)]
    return min(losses)[1] if losses else None


def curves(
    history: Sequence[dict[str, str]], objectives: Sequence[Objective], headings: Mapping[str, str]
) -> list[Chart]:
    """Draws the loss, the main metric, and the learning rate if it changes.

    Args:
      history: Rows of `history.csv`.
      objectives: Those of the task; the first one besides the loss is the main metric.
      headings: Name of a metric → its heading.
    """
    if not history:
        return []
    epochs = range(1, len(history) + 1)
    phases = [row.get("phase", "") for row in history]
    dividers = [
        (epoch - 0.5, _PHASES.get(phases[epoch - 1], phases[epoch - 1]))
        for epoch in epochs
        if epoch > 1 and phases[epoch - 1] != phases[epoch - 2]
    ]
    best = best_epoch(history)
    recorded = [
        name for name in (objective.name.removeprefix("val_") for objective in objectives) if name in history[0]
    ]
    metrics = [name for name in recorded if name != "loss"][:1]
    result = []
    for name in ("loss", *metrics):
        heading = headings.get(name, name.replace("_", " ").capitalize())
        values = {"Training": _column(history, name), "Validation": _column(history, f"val_{name}")}
        description = (
            f"{heading} in {len(history)} epochs: training {_from_to(values['Training'])}, "
            f"validation {_from_to(values['Validation'])}."
        )
        if best:
            description += f" In the best epoch, {best}, validation is {values['Validation'][best - 1]:.4g}."
        result.append(
            charts.line_chart(
                name.replace("_", "-"),
                heading,
                description,
                x=epochs,
                curves=values,
                table=_curve_table(heading, values),
                dividers=dividers,
            )
        )
    rates = _column(history, "learning_rate")
    known = [rate for rate in rates if math.isfinite(rate)]
    if len(set(known)) > 1:
        result.append(
            charts.line_chart(
                "learning-rate",
                "Learning rate",
                f"Learning rate at the end of each of {len(history)} epochs: {_from_to(rates)}.",
                x=epochs,
                curves={"Learning rate": rates},
                table=_curve_table("Learning rate", {"Learning rate": rates}),
                dividers=dividers,
                logarithmic=min(known) > 0 and max(known) / min(known) > 10,
            )
        )
    return result


def _from_to(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"from {known[0]:.4g} to {known[-1]:.4g}" if known else "not recorded"


def _curve_table(name: str, curves: dict[str, list[float]]) -> Table:
    columns = [Column("Epoch", numeric=True), *[Column(curve, numeric=True) for curve in curves]]
    rows = [
        [Cell(str(epoch), epoch), *[number(value, _FORMAT) for value in values]]
        for epoch, values in enumerate(zip(*curves.values(), strict=True), start=1)
    ]
    rows, caption = at_most(rows, _MAX_ROWS, f"{name} by epoch", features.HISTORY_FILE)
    return Table(caption, columns, rows)


def sentence(history: Sequence[dict[str, str]], kept_epoch: str = "best") -> str:
    """Describes the number of epochs, the time, the kept epoch, and the learning rate if it was constant.

    Args:
      history: Rows of `history.csv`.
      kept_epoch: `training.kept_epoch`.
    """
    if not history:
        return "The run has no training history."
    seconds = sum(value for value in _column(history, "seconds") if math.isfinite(value))
    text = f"{len(history)} epochs in {_duration(seconds)}" if seconds else f"{len(history)} epochs"
    if kept_epoch == "last":
        text += "; the model has the weights of the last epoch"
    elif best := best_epoch(history):
        text += f"; the model has the weights of epoch {best}, which has the lowest validation loss"
    rates = {rate for rate in _column(history, "learning_rate") if math.isfinite(rate)}
    if len(rates) == 1:
        text += f"; the learning rate was constant at {rates.pop():.4g}"
    return text + "."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def epochs_table(history: Sequence[dict[str, str]]) -> Table:
    """Lists the whole history except metrics of single classes."""
    shown = [name for name in (history[0] if history else {}) if "/" not in name and name not in ("epoch", "phase")]
    columns = [Column("Epoch", numeric=True), Column("Phase")]
    columns += [Column(name.replace("_", " ").capitalize(), numeric=True) for name in shown]
    values = {name: _column(history, name) for name in shown}
    rows = [
        [
            Cell(str(index + 1), index + 1),
            Cell(_PHASES.get(row.get("phase", ""), row.get("phase", "") or NO_VALUE)),
            *[number(values[name][index], _FORMAT) for name in shown],
        ]
        for index, row in enumerate(history)
    ]
    rows, caption = at_most(rows, _MAX_ROWS, "All epochs", features.HISTORY_FILE)
    return Table(caption, columns, rows)


def tuned_table(tuned: dict[str, Any]) -> Table | None:
    """Lists the values that Tuner chose; None if it did not run."""
    if not tuned:
        return None
    rows = [
        [Cell(name), Cell(f"{value:g}" if isinstance(value, float) else str(value))] for name, value in tuned.items()
    ]
    return Table("Values chosen by Tuner", [Column("Setting"), Column("Value")], rows)


def trials_table(trials: Sequence[dict[str, str]]) -> Table | None:
    """Lists all trials of the search; None if there was none."""
    if not trials:
        return None
    rows = []
    for trial in sorted(trials, key=lambda trial: float(trial["rank"] or "inf")):
        rows.append([_trial_cell(value) for value in trial.values()])
    columns = [Column(name.replace("_", " ").capitalize(), numeric=True) for name in trials[0]]
    rows, caption = at_most(rows, _MAX_ROWS, "Trials of the search, the best first")
    return Table(caption, columns, rows)


def _trial_cell(text: str) -> Cell:
    try:
        return number(float(text), _FORMAT)
    except ValueError:
        return Cell(text or NO_VALUE, math.nan)
