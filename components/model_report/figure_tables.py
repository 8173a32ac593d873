"""The figures as tables: over all examples, by class, by slice, what is taken for what, how right when how sure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.evaluator.artifact import ALL, EvaluationResult, GateResult, SliceMetrics
from components.model_report import charts
from components.model_report.charts import Chart
from components.model_report.tables import (
    MOST_CLASSES,
    NO_VALUE,
    Cell,
    Column,
    Table,
    at_most,
    count,
    interval,
    number,
    signed,
)
from trainer_module.evaluation.spec import MetricSpec

# Beyond so many classes a matrix is no longer taken in at a glance: the pairs come first.
MANY_CLASSES = 25
# Beyond so many it is left out: a matrix of a thousand classes would be ten times the rest of the page.
MOST_CLASSES_IN_MATRIX = 120
# Up to so many every cell says in words what it is; beyond, the words would be most of the page.
_MOST_CLASSES_IN_WORDS = 40
_MOST_PAIRS = 20
_MOST_SLICES = 300
# A distance of confidence and accuracy that is worth a word.
_OFF = 0.01


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix.

    Attributes:
      text: Examples, or of masks percent of the row.
      shade: Depth of its colour, range [0, 1].
      right: Whether it lies on the diagonal.
      title: The same in words; empty where there are many classes.
    """

    text: str
    shade: float
    right: bool
    title: str


@dataclass(frozen=True)
class Confusion:
    """What is taken for what.

    Attributes:
      caption: What stands in the cells.
      classes: Class names; rows are actual, columns predicted.
      rows: Of the matrix; empty where there are too many classes.
      pairs: The most frequent mistakes, or None where there are none.
      pairs_first: Whether these are to be read before the matrix.
      left_out: Why there is no matrix.
    """

    caption: str
    classes: list[str]
    rows: list[list[MatrixCell]]
    pairs: Table | None
    pairs_first: bool
    left_out: str = ""


def metrics_table(evaluation: EvaluationResult) -> Table:
    """Lists all metrics over all examples."""
    overall, baseline = evaluation.overall, evaluation.baseline_overall
    columns = [Column("Metric"), Column("Value", numeric=True)]
    if overall.intervals:
        columns.append(Column("95 % interval", numeric=True))
    if baseline:
        columns += [Column("Model before", numeric=True), Column("Change", numeric=True)]
    rows = []
    for metric in evaluation.overall_metrics:
        value = overall.value(metric.name)
        row = [Cell(metric.heading, note=metric.description), number(value)]
        if overall.intervals:
            row.append(Cell(interval(overall.intervals.get(metric.name)) or NO_VALUE, tone="soft"))
        if baseline:
            before = baseline.value(metric.name)
            row += [number(before), _change(metric, value, before)]
        rows.append(row)
    return Table(f"Over all {count(overall.examples).text} examples of the split", columns, rows)


def _change(metric: MetricSpec, value: float, before: float) -> Cell:
    difference = value - before
    if math.isnan(difference):
        return Cell(NO_VALUE, math.nan, tone="soft")
    if abs(difference) < 5e-5:
        return Cell(signed(0.0), 0.0, "the same", "soft")
    better = metric.is_better(value, before)
    return Cell(signed(difference), difference, "better" if better else "worse", "good" if better else "bad")


def _broken(gates: Iterable[GateResult], *, class_name: str | None = None, slice_name: str | None = None) -> int:
    return sum(
        gate.passed is False
        and (class_name is None or (gate.class_name == class_name and gate.slice == ALL))
        and (slice_name is None or gate.slice == slice_name)
        for gate in gates
    )


def class_table(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Table:
    """Lists the metrics of all classes, the weakest class first."""
    overall, baseline, main = evaluation.overall, evaluation.baseline_overall, evaluation.main_class_metric
    metrics = sorted(evaluation.class_metrics, key=lambda metric: not metric.main)
    columns = [Column("Class")] + [Column(metric.heading, numeric=True) for metric in metrics]
    if baseline:
        columns.append(Column(f"{main.heading}, change", numeric=True))
    columns.append(Column(evaluation.count_unit.capitalize(), numeric=True))
    rows = []
    for name in sorted(evaluation.classes, key=lambda name: main.worst_first(overall.value(main.name, name))):
        intervals = overall.class_intervals.get(name, {})
        broken = _broken(gates, class_name=name)
        row = [Cell(name, note=_rules_broken(broken), tone="bad" if broken else "")]
        row += [
            number(overall.value(metric.name, name), note=interval(intervals.get(metric.name))) for metric in metrics
        ]
        if baseline:
            row.append(_change(main, overall.value(main.name, name), baseline.value(main.name, name)))
        row.append(count(overall.support.get(name, math.nan)))
        rows.append(row)
    rows, caption = at_most(rows, MOST_CLASSES, "Classes, the weakest first", EvaluationResult.FILE)
    return Table(caption, columns, rows, sorted_by=1)


def _rules_broken(number_of: int) -> str:
    return f"{number_of} rule{'s' if number_of > 1 else ''} broken" if number_of else ""


def slice_table(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Table | None:
    """Lists the metrics of all slices, the weakest slice first; None if there are none."""
    overall, *slices = evaluation.candidate
    baseline = {row.name: row for row in evaluation.baseline or ()}
    metrics, main = evaluation.slice_columns, evaluation.main_metric
    if not slices:
        return None
    columns = [Column("Slice")] + [Column(metric.heading, numeric=True) for metric in metrics]
    columns.append(Column("Distance from all", numeric=True))
    if baseline:
        columns.append(Column(f"{main.heading}, change", numeric=True))
    columns.append(Column("Examples", numeric=True))

    def row(values: SliceMetrics) -> list[Cell]:
        broken = _broken(gates, slice_name=values.name) if values is not overall else 0
        name = "all examples" if values is overall else values.name
        cells = [Cell(name, note=_rules_broken(broken), tone="bad" if broken else "")]
        cells += [
            number(values.value(metric.name), note=interval(values.intervals.get(metric.name))) for metric in metrics
        ]
        distance = values.value(main.name) - overall.value(main.name)
        cells.append(
            Cell(signed(distance), distance, tone="soft") if values is not overall else Cell(NO_VALUE, tone="soft")
        )
        if baseline:
            before = baseline[values.name].value(main.name) if values.name in baseline else math.nan
            cells.append(_change(main, values.value(main.name), before))
        cells.append(count(values.examples))
        return cells

    ordered = sorted(slices, key=lambda values: (*main.worst_first(values.value(main.name)), values.name))
    rows, caption = at_most([row(values) for values in ordered], _MOST_SLICES, "Slices, the weakest first")
    return Table(caption, columns, rows, pinned=[row(overall)], sorted_by=1)


def confusion(evaluation: EvaluationResult) -> Confusion:
    """What is taken for what, over all examples."""
    classes, matrix = list(evaluation.classes), evaluation.overall.confusion_matrix
    unit, percent = evaluation.count_unit, not evaluation.counts_images
    totals = [sum(row) for row in matrix]
    rows = []
    if len(classes) <= MOST_CLASSES_IN_MATRIX:
        for actual, row in enumerate(matrix):
            cells = []
            for predicted, found in enumerate(row):
                share = found / totals[actual] if totals[actual] else 0.0
                title = ""
                if len(classes) <= _MOST_CLASSES_IN_WORDS:
                    verb = "found" if actual == predicted else f"taken for {classes[predicted]}"
                    title = f"{classes[actual]} {verb}: {found:,} {unit}, {share:.1%}"
                text = (f"{100 * share:.1f}" if found else "0") if percent else f"{found:,}"
                # The root, so that a rare mistake is seen beside a full diagonal.
                shade = share if actual == predicted else math.sqrt(share)
                cells.append(MatrixCell(text, round(shade, 3), actual == predicted, title))
            rows.append(cells)
    return Confusion(
        caption=(
            "Rows are the ground truth, columns the prediction; "
            + (f"percent of the row's {unit}" if percent else unit)
        ),
        classes=classes,
        rows=rows,
        pairs=_pairs(classes, matrix, totals, unit),
        pairs_first=len(classes) > MANY_CLASSES,
        left_out=""
        if rows
        else f"A matrix of {len(classes):,} classes would not be readable; {EvaluationResult.FILE} has it.",
    )


def _pairs(classes: list[str], matrix: list[list[int]], totals: list[int], unit: str) -> Table | None:
    found = [
        (value, actual, predicted)
        for actual, row in enumerate(matrix)
        for predicted, value in enumerate(row)
        if value and actual != predicted
    ]
    if not found:
        return None
    found.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [
        [
            Cell(classes[actual]),
            Cell(classes[predicted]),
            count(value),
            Cell(f"{value / totals[actual]:.1%}".replace("%", " %"), value / totals[actual]),
        ]
        for value, actual, predicted in found[:_MOST_PAIRS]
    ]
    caption = (
        f"The {len(rows)} most frequent mistakes" if len(found) > len(rows) else "All mistakes, most frequent first"
    )
    columns = [Column("Actually"), Column("Taken for"), Column(unit.capitalize(), numeric=True)]
    columns.append(Column("Of the class", numeric=True))
    return Table(caption, columns, rows, sorted_by=2, descending=True)


def reliability(overall: SliceMetrics) -> Chart | None:
    """How often the model is right by how sure it is."""
    bins = [(bin_.lower, bin_.upper, bin_.count, bin_.confidence, bin_.accuracy) for bin_ in overall.reliability]
    if not any(found for *_, found, _, _ in bins):
        return None
    rows = [
        [
            Cell(f"{lower:g} to {upper:g}", lower),
            count(found),
            number(confidence),
            number(accuracy),
            Cell(signed(accuracy - confidence) if found else NO_VALUE, accuracy - confidence, tone="soft"),
        ]
        for lower, upper, found, confidence, accuracy in bins
    ]
    columns = [Column("Confidence", numeric=True), Column("Predictions", numeric=True)]
    columns += [
        Column("Mean confidence", numeric=True),
        Column("Right", numeric=True),
        Column("Difference", numeric=True),
    ]
    total = sum(found for *_, found, _, _ in bins)
    sure = sum(found * confidence for *_, found, confidence, _ in bins if found) / total
    right = sum(found * accuracy for *_, found, _, accuracy in bins if found) / total
    word = "overconfident" if sure - right > _OFF else "underconfident" if right - sure > _OFF else "well calibrated"
    description = f"Mean confidence {sure:.3f}, share of right predictions {right:.3f}: on the whole {word}."
    return charts.reliability_chart(bins, Table("Reliability, bin by bin", columns, rows), description)
