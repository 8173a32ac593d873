"""The metrics as tables: over all examples, by class, by slice, the confusion matrix and the reliability curve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.evaluator.artifact import ALL, EvaluationResult, GateResult, SliceMetrics
from components.model_report import charts
from components.model_report.charts import Chart
from components.model_report.tables import (
    MAX_CLASSES,
    NO_VALUE,
    UNDEFINED,
    Cell,
    Column,
    Table,
    at_most,
    count,
    interval,
    number,
    signed,
)
from trainer_module import tasks
from trainer_module.evaluation.spec import MetricSpec

# With more classes, the most frequent errors come before the matrix, which is hard to read.
MANY_CLASSES = 25
# With more classes there is no matrix: one of a thousand classes would be ten times the rest of the page.
MAX_CLASSES_IN_MATRIX = 120
# Cells have tooltips up to this number of classes; with more, these would be most of the page.
_MAX_CLASSES_WITH_TOOLTIPS = 40
_BACKGROUND = "(background)"  # boxes without an object, and objects without a box
_NO_CLASS = "(none)"  # classes that are predicted without a missed one, and missed without a predicted one
_MAX_PAIRS = 20
_MAX_SLICES = 300
# Confidence minus accuracy beyond which the model is called over- or underconfident.
_CALIBRATED_WITHIN = 0.01


@dataclass(frozen=True)
class Definition:
    """Meaning of a metric.

    Attributes:
      name: Its heading.
      description: One sentence.
      details: Range, direction and when it is undefined.
    """

    name: str
    description: str
    details: str


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix.

    Attributes:
      text: Number of images, or percent of the row.
      shade: Depth of its colour, range [0, 1].
      correct: Whether it is on the diagonal.
      title: Tooltip; empty if there are many classes.
    """

    text: str
    shade: float
    correct: bool
    title: str


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix.

    Attributes:
      caption: The content of the cells.
      classes: Class names; rows are the ground truth, columns the prediction.
      rows: Of the matrix; empty if there are too many classes.
      pairs: The most frequent errors, or None if there are none.
      pairs_first: Whether these come before the matrix.
      omitted: Why there is no matrix.
    """

    caption: str
    classes: Sequence[str]
    rows: list[list[MatrixCell]]
    pairs: Table | None
    pairs_first: bool
    omitted: str = ""


def definitions(metrics: Iterable[MetricSpec]) -> list[Definition]:
    """Describes metrics."""
    return [
        Definition(
            metric.heading,
            metric.description,
            f"{metric.range_text.capitalize()}; {metric.direction.replace('_', ' ')}. "
            f"Undefined if {metric.undefined_when}.",
        )
        for metric in metrics
    ]


def column(metric: MetricSpec) -> Column:
    """The column of a metric."""
    return Column(metric.heading, numeric=True, title=metric.description)


def metrics_table(evaluation: EvaluationResult) -> Table:
    """Lists every metric over all examples."""
    overall, baseline, compared = evaluation.overall, evaluation.baseline_overall, evaluation.compared[0]
    where = ", shared classes" if evaluation.shared else ""
    columns = [Column("Metric"), Column("Value", numeric=True)]
    if overall.intervals:
        columns.append(Column("95 % interval", numeric=True))
    if baseline:
        columns += [Column(f"Baseline{where}", numeric=True), Column(f"Change{where}", numeric=True)]
    rows = []
    for metric in evaluation.overall_metrics:
        value = overall.value(metric.name)
        row = [Cell(metric.heading, note=metric.description, title=metric.description), number(value)]
        if overall.intervals:
            row.append(Cell(interval(overall.intervals.get(metric.name)) or NO_VALUE, tone="soft"))
        if baseline:
            before = baseline.value(metric.name)
            row += [number(before), _change(metric, compared.value(metric.name), before)]
        rows.append(row)
    return Table(f"All {overall.examples:,} examples of the {evaluation.split} split", columns, rows)


def _change(metric: MetricSpec, value: float, before: float) -> Cell:
    difference = value - before
    if math.isnan(difference):
        return UNDEFINED
    if abs(difference) < 5e-5:
        return Cell(signed(0.0), 0.0, "equal", "soft")
    better = metric.is_better(value, before)
    return Cell(signed(difference), difference, "better" if better else "worse", "good" if better else "bad")


def _name(name: str, gates: Iterable[GateResult]) -> Cell:
    failed = sum(gate.passed is False for gate in gates)
    note = f"{failed} threshold{'s' if failed > 1 else ''} failed" if failed else ""
    return Cell(name, note=note, tone="bad" if failed else "")


def class_table(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Table:
    """Lists the metrics of every class, the weakest class first."""
    overall, baseline, main = evaluation.overall, evaluation.baseline_overall, evaluation.main_class_metric
    compared = evaluation.compared[0]
    metrics = sorted(evaluation.class_metrics, key=lambda metric: not metric.main)
    columns = [Column("Class"), *map(column, metrics)]
    if baseline:
        columns.append(Column(f"{main.heading}, change", numeric=True, title=main.description))
    unit = "Support" if evaluation.counts_images else evaluation.count_unit.capitalize()
    columns.append(Column(unit, numeric=True, title=f"Number of {evaluation.count_unit} of the class."))
    rows = []
    for name in sorted(overall.class_metrics, key=lambda name: main.worst_first(overall.value(main.name, name))):
        intervals = overall.class_intervals.get(name, {})
        row = [_name(name, (gate for gate in gates if gate.class_name == name and gate.slice == ALL))]
        row += [
            number(overall.value(metric.name, name), note=interval(intervals.get(metric.name))) for metric in metrics
        ]
        if baseline:
            row.append(_change(main, compared.value(main.name, name), baseline.value(main.name, name)))
        row.append(count(overall.support.get(name, math.nan)))
        rows.append(row)
    rows, caption = at_most(rows, MAX_CLASSES, "Classes, the weakest first", EvaluationResult.FILE)
    return Table(caption, columns, rows, sorted_by=1, descending=not main.higher_is_better)


def slice_table(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Table | None:
    """Lists the metrics of every slice, the weakest slice first; None if there is only the slice of all examples."""
    overall, *slices = evaluation.candidate
    if not slices:
        return None
    main, metrics = evaluation.main_metric, evaluation.slice_columns
    baseline = {values.name: values for values in evaluation.baseline or ()}
    compared = {values.name: values for values in evaluation.compared}
    columns = [Column("Slice"), *map(column, metrics)]
    columns.append(
        Column("Difference", numeric=True, title=f"Difference of the {main.title} from that of all examples.")
    )
    if baseline:
        columns.append(Column(f"{main.heading}, change", numeric=True, title=main.description))
    columns.append(Column("Examples", numeric=True))

    def row(values: SliceMetrics) -> list[Cell]:
        if values is overall:
            cells = [Cell("all examples")]
        else:
            cells = [_name(values.name, (gate for gate in gates if gate.slice == values.name))]
        cells += [
            number(values.value(metric.name), note=interval(values.intervals.get(metric.name))) for metric in metrics
        ]
        difference = values.value(main.name) - overall.value(main.name)
        cells.append(
            Cell(NO_VALUE, tone="soft") if values is overall else Cell(signed(difference), difference, tone="soft")
        )
        if baseline:
            value, before = (
                rows_by_name[values.name].value(main.name) if values.name in rows_by_name else math.nan
                for rows_by_name in (compared, baseline)
            )
            cells.append(_change(main, value, before))
        return [*cells, count(values.examples)]

    ordered = sorted(slices, key=lambda values: (*main.worst_first(values.value(main.name)), values.name))
    rows, caption = at_most([row(values) for values in ordered], _MAX_SLICES, "Slices, the weakest first")
    return Table(
        caption,
        columns,
        rows,
        pinned=[row(overall)],
        sorted_by=1 + metrics.index(main),
        descending=not main.higher_is_better,
    )


def corruption_table(evaluation: EvaluationResult) -> Table | None:
    """Lists the main metric by corruption and severity, the worst corruption first; None if there are none."""
    main, clean = evaluation.main_metric, evaluation.overall.value(evaluation.main_metric.name)
    by_key = {tuple(value for _, value in row.key): row.value(main.name) for row in evaluation.corrupted}
    names = sorted({key[0] for key in by_key}, key=lambda name: main.worst_first(by_key[(name,)]))
    if not names:
        return None
    severities = sorted({key[1] for key in by_key if len(key) > 1})
    columns = [
        Column("Corruption"),
        *(Column(f"Severity {severity}", numeric=True, title=main.description) for severity in severities),
        Column("All severities", numeric=True, title=main.description),
        Column("Difference", numeric=True, title=f"Difference from the {main.title} of the unchanged images."),
        Column("Ratio", numeric=True, title=f"Divided by the {main.title} of the unchanged images."),
    ]

    def row(name: str) -> list[Cell]:
        value = by_key[(name,)]
        severe = [number(by_key.get((name, severity), math.nan)) for severity in severities]
        return [
            Cell(name),
            *severe,
            number(value),
            Cell(signed(value - clean), value - clean, tone="soft"),
            number(value / clean if clean else math.nan),
        ]

    caption = f"{main.heading} on corrupted images; unchanged: {clean:.4f}"
    return Table(caption, columns, [row(name) for name in names])


def confusion(evaluation: EvaluationResult) -> Confusion:
    """Shows which classes are predicted as which, over all examples; parts of images in percent of the row."""
    matrix, unit = evaluation.overall.confusion_matrix, evaluation.count_unit
    has_background = len(matrix) > len(evaluation.classes)
    nothing = _NO_CLASS if evaluation.counts_images else _BACKGROUND
    classes = (*evaluation.classes, nothing) if has_background else evaluation.classes
    totals = [sum(row) for row in matrix]
    rows = []
    if len(classes) <= MAX_CLASSES_IN_MATRIX:
        for actual, row in enumerate(matrix):
            cells = []
            for predicted, value in enumerate(row):
                share = value / totals[actual] if totals[actual] else 0.0
                title = ""
                if len(classes) <= _MAX_CLASSES_WITH_TOOLTIPS:
                    title = f"{classes[actual]} predicted as {classes[predicted]}: {value:,} {unit}, {share:.1%}"
                percent = f"{100 * share:.1f}" if value else "0"
                # The root makes a rare error visible beside a full diagonal.
                shade = share if actual == predicted else math.sqrt(share)
                text = f"{value:,}" if evaluation.counts_images else percent
                cells.append(MatrixCell(text, round(shade, 3), actual == predicted, title))
            rows.append(cells)
    quantity = f"number of {unit}" if evaluation.counts_images else f"percent of the {unit} of the row"
    note = tasks.get(evaluation.task).evaluation.confusion_note
    return Confusion(
        caption=f"Rows: ground truth, columns: prediction; {quantity}" + (f". {note}" if note else ""),
        classes=classes,
        rows=rows,
        pairs=_pairs(classes, matrix, totals, unit),
        pairs_first=len(classes) > MANY_CLASSES,
        omitted=""
        if rows
        else f"A confusion matrix of {len(classes):,} classes is not readable; see {EvaluationResult.FILE}.",
    )


def _pairs(classes: Sequence[str], matrix: Sequence[Sequence[int]], totals: Sequence[int], unit: str) -> Table | None:
    errors = [
        (value, actual, predicted)
        for actual, row in enumerate(matrix)
        for predicted, value in enumerate(row)
        if value and actual != predicted
    ]
    if not errors:
        return None
    errors.sort(key=lambda error: (-error[0], error[1], error[2]))
    rows = [
        [
            Cell(classes[actual]),
            Cell(classes[predicted]),
            count(value),
            Cell(f"{100 * value / totals[actual]:.1f} %", value / totals[actual]),
        ]
        for value, actual, predicted in errors[:_MAX_PAIRS]
    ]
    caption = f"The {len(rows)} most frequent errors" if len(errors) > len(rows) else "All errors, most frequent first"
    columns = [Column("Ground truth"), Column("Prediction"), Column(unit.capitalize(), numeric=True)]
    columns.append(Column("Share of the class", numeric=True))
    return Table(caption, columns, rows, sorted_by=2, descending=True)


def reliability(overall: SliceMetrics) -> Chart | None:
    """Shows accuracy by confidence; None if the task has no such curve."""
    bins = [(bin_.lower, bin_.upper, bin_.count, bin_.confidence, bin_.accuracy) for bin_ in overall.reliability]
    if not any(number_of for *_, number_of, _, _ in bins):
        return None
    rows = [
        [
            Cell(f"{lower:g} to {upper:g}", lower),
            count(number_of),
            number(confidence),
            number(accuracy),
            Cell(signed(accuracy - confidence) if number_of else NO_VALUE, accuracy - confidence, tone="soft"),
        ]
        for lower, upper, number_of, confidence, accuracy in bins
    ]
    columns = [
        Column(name, numeric=True)
        for name in ("Confidence", "Predictions", "Mean confidence", "Accuracy", "Difference")
    ]
    total = sum(number_of for *_, number_of, _, _ in bins)
    confidence = sum(number_of * mean for *_, number_of, mean, _ in bins if number_of) / total
    accuracy = sum(number_of * share for *_, number_of, _, share in bins if number_of) / total
    difference = confidence - accuracy
    calibration = (
        "overconfident"
        if difference > _CALIBRATED_WITHIN
        else "underconfident"
        if difference < -_CALIBRATED_WITHIN
        else "well calibrated"
    )
    description = f"Mean confidence {confidence:.3f}, accuracy {accuracy:.3f}: the model is {calibration} on average."
    return charts.reliability_chart(bins, Table("Reliability by bin", columns, rows), description)
