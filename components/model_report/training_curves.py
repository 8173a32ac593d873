"""How the training went: curves, the best epoch, what Tuner found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from components.model_report import charts, names
from components.model_report.charts import Chart
from components.model_report.tables import NO_VALUE, Cell, Column, Table, at_most
from trainer_module import features

_MOST_ROWS = 300
_PHASES = {"whole": "whole network", "head": "head", "fine_tuning": "fine-tuning"}


def _figures(history: Sequence[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) if row.get(name) else math.nan for row in history]


def _main_of_training(history: Sequence[dict[str, str]]) -> str:
    return next((name for name in ("mean_iou", "accuracy", "pixel_accuracy") if history and name in history[0]), "")


def best_epoch(history: Sequence[dict[str, str]]) -> int | None:
    """The epoch, counted from 1, whose validation loss is lowest: its weights are the model's."""
    losses = [(loss, index) for index, loss in enumerate(_figures(history, "val_loss"), start=1) if math.isfinite(loss)]
    return min(losses)[1] if losses else None


def curves(history: Sequence[dict[str, str]]) -> list[Chart]:
    """Loss, main figure and learning rate over the epochs; the rate only where it changes."""
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
    result = []
    for name in filter(None, ("loss", _main_of_training(history))):
        train, validation = _figures(history, name), _figures(history, f"val_{name}")
        description = (
            f"{names.figure(name)} in {len(history)} epochs: training {_from_to(train)}, "
            f"validation {_from_to(validation)}."
        )
        if best:
            description += f" In the best epoch, {best}, validation has {validation[best - 1]:.4g}."
        result.append(
            charts.line_chart(
                name.replace("_", "-"),
                names.figure(name),
                description,
                x=epochs,
                curves={"Training": train, "Validation": validation},
                table=_curve_table(names.figure(name), {"Training": train, "Validation": validation}),
                dividers=dividers,
            )
        )
    rates = _figures(history, "learning_rate")
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
    return f"from {known[0]:.4g} to {known[-1]:.4g}" if known else "not measured"


def _curve_table(name: str, curves: dict[str, list[float]]) -> Table:
    columns = [Column("Epoch", numeric=True), *[Column(curve, numeric=True) for curve in curves]]
    rows = [
        [Cell(str(epoch), epoch), *[_general(value) for value in values]]
        for epoch, values in enumerate(zip(*curves.values(), strict=True), start=1)
    ]
    rows, caption = at_most(rows, _MOST_ROWS, f"{name}, epoch by epoch", features.HISTORY_FILE)
    return Table(caption, columns, rows)


def _general(value: float) -> Cell:
    return Cell(NO_VALUE, math.nan, tone="soft") if math.isnan(value) else Cell(f"{value:.5g}", value)


def sentence(history: Sequence[dict[str, str]]) -> str:
    """How long it took, which epoch was the best, and the learning rate where that is all there is to say of it."""
    if not history:
        return "There is no history of this training."
    seconds = sum(value for value in _figures(history, "seconds") if math.isfinite(value))
    text = f"{len(history)} epochs in {_duration(seconds)}" if seconds else f"{len(history)} epochs"
    if best := best_epoch(history):
        text += f"; the weights are those of epoch {best}, whose validation loss is lowest"
    rates = {rate for rate in _figures(history, "learning_rate") if math.isfinite(rate)}
    if len(rates) == 1:
        text += f"; the learning rate was {rates.pop():.4g} throughout"
    return text + "."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def epochs_table(history: Sequence[dict[str, str]]) -> Table:
    """The whole history, but for figures of single classes."""
    shown = [name for name in (history[0] if history else {}) if "/" not in name and name not in ("epoch", "phase")]
    columns = [Column("Epoch", numeric=True), Column("Phase")]
    columns += [Column(name.replace("_", " ").capitalize(), numeric=True) for name in shown]
    values = {name: _figures(history, name) for name in shown}
    rows = [
        [
            Cell(str(index + 1), index + 1),
            Cell(_PHASES.get(row.get("phase", ""), row.get("phase", "") or NO_VALUE)),
            *[_general(values[name][index]) for name in shown],
        ]
        for index, row in enumerate(history)
    ]
    rows, caption = at_most(rows, _MOST_ROWS, "All epochs", features.HISTORY_FILE)
    return Table(caption, columns, rows)


def tuned_table(tuned: dict[str, Any]) -> Table | None:
    """What Tuner found; None where it did not run."""
    if not tuned:
        return None
    rows = [
        [Cell(name), Cell(f"{value:g}" if isinstance(value, float) else str(value))] for name, value in tuned.items()
    ]
    return Table("What Tuner found", [Column("Field"), Column("Value")], rows)


def trials_table(trials: Sequence[dict[str, str]]) -> Table | None:
    """Every trial of the search; None where there was none."""
    if not trials:
        return None
    rows = []
    for trial in sorted(trials, key=lambda trial: float(trial["rank"] or "inf")):
        rows.append([_trial_cell(value) for value in trial.values()])
    columns = [Column(name.replace("_", " ").capitalize(), numeric=True) for name in trials[0]]
    rows, caption = at_most(rows, _MOST_ROWS, "Trials of the search, the best first")
    return Table(caption, columns, rows)


def _trial_cell(text: str) -> Cell:
    try:
        return _general(float(text))
    except ValueError:
        return Cell(text or NO_VALUE, math.nan)
