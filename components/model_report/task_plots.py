"""The plots that a task adds to the report, as charts and tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.evaluator.artifact import EvaluationResult
from components.model_report import charts
from components.model_report.charts import Chart
from components.model_report.tables import Cell, Column, Table, number
from trainer_module import tasks
from trainer_module.evaluation.plots import BarPlot, Curve, CurvePlot

# Rows of the table of a curve.
_STEPS = 11


@dataclass(frozen=True)
class DrawnGroup:
    """Plots under one heading.

    Attributes:
      heading: The heading.
      text: What they show.
      charts: Small charts side by side, with one legend.
      bars: Bars with their values.
    """

    heading: str
    text: str
    charts: list[Chart]
    bars: list[BarPlot]


def draw(evaluation: EvaluationResult) -> list[DrawnGroup]:
    """Draws the plots of the evaluated task."""
    groups = tasks.get(evaluation.task).evaluation.plots(evaluation.overall)
    return [
        DrawnGroup(
            group.heading,
            group.text,
            [
                charts.curve_chart(f"plot-{index}-{number_of}", plot, _values(plot))
                for number_of, plot in enumerate(group.plots)
                if isinstance(plot, CurvePlot)
            ],
            [plot for plot in group.plots if isinstance(plot, BarPlot)],
        )
        for index, group in enumerate(groups)
    ]


def _values(plot: CurvePlot) -> Table:
    columns = [Column(plot.x_label, numeric=True)]
    columns += [Column(f"{plot.y_label}, {curve.name}", numeric=True) for curve in plot.curves]
    rows = []
    for step in range(_STEPS):
        x = step / (_STEPS - 1)
        rows.append([Cell(f"{x:g}", x), *[number(_value_at(curve, x), ".3f") for curve in plot.curves]])
    return Table(f"{plot.title}: {plot.description}", columns, rows)


def _value_at(curve: Curve, x: float) -> float:
    """Returns the value at x, NaN beyond the end of a curve."""
    near = [y for other, y in curve.points if math.isclose(other, x, abs_tol=1e-9)]
    return near[0] if near else math.nan
