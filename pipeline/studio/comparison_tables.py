"""The comparison of two runs as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.model_report.tables import NO_VALUE, UNDEFINED, Cell, Column, Table, at_most, count, number, signed
from pipeline.history.comparison import Comparison, Difference, Differences
from trainer_module.evaluation.spec import MetricSpec

_MAX_ROWS = 300
_SMALLEST_CHANGE = 5e-5
_MISSING = Difference(None, None)


def tables(compared: Comparison) -> list[Table]:
    """Returns the tables of metrics, classes, slices, settings and data; those without rows are absent."""
    shown = [_metrics(compared)]
    if (evaluation := compared.evaluation) is not None:
        main = evaluation.main_class_metric
        metrics = [main, *(metric for metric in evaluation.class_metrics if metric != main)]
        unit = Column(evaluation.count_unit.capitalize(), numeric=True)
        shown.append(_rows("Classes", "Class", compared, compared.classes, metrics, ("support", unit)))
        unit = Column("Examples", numeric=True)
        shown.append(_rows("Slices", "Slice", compared, compared.slices, [evaluation.main_metric], ("examples", unit)))
    shown.append(_pairs("Settings that differ", "Setting", compared, compared.settings))
    shown.append(_pairs("Properties of the dataset that differ", "Property", compared, compared.data))
    return [table for table in shown if table.rows]


def _columns(compared: Comparison) -> list[Column]:
    return [Column(f"Run {run.number}", numeric=True) for run in (compared.first, compared.second)]


def _metrics(compared: Comparison) -> Table:
    rows = []
    for name, entry in compared.metrics.items():
        shown = _value if entry.metric else count
        title = entry.metric.heading if entry.metric else name.capitalize()
        values = [UNDEFINED if value is None else shown(value) for value in (entry.first, entry.second)]
        rows.append([Cell(title), *values, _change(entry)])
    return Table("All examples", [Column("Metric"), *_columns(compared), Column("Change", numeric=True)], rows)


def _rows(
    title: str,
    kind: str,
    compared: Comparison,
    table: Mapping[str, Differences],
    metrics: Sequence[MetricSpec],
    counted: tuple[str, Column],
) -> Table:
    main, *others = metrics
    key, column = counted
    rows = []
    for name, row in table.items():
        entry, size = row.get(main.name, _MISSING), row.get(key, _MISSING)
        values = [UNDEFINED if value is None else _value(value) for value in (entry.first, entry.second)]
        changes = [_change(row.get(other.name, _MISSING)) for other in others]
        rows.append([Cell(name), *values, _change(entry), *changes, _counts(size)])
    rows, caption = at_most(rows, _MAX_ROWS, f"{title}: {main.heading}, worst change first")
    columns = [Column(kind), *_columns(compared), Column("Change", numeric=True)]
    columns += [Column(f"{other.heading}, change", numeric=True) for other in others]
    return Table(caption, [*columns, column], rows)


def _value(value: float) -> Cell:
    return number(value)


def _counts(entry: Difference) -> Cell:
    texts = list(dict.fromkeys(NO_VALUE if value is None else f"{value:,.0f}" for value in (entry.first, entry.second)))
    return Cell(" → ".join(texts), entry.second)


def _change(entry: Difference) -> Cell:
    if entry.change is None:
        return UNDEFINED
    if entry.metric is None:
        return Cell(f"{entry.change:+,.0f}" if entry.change else "equal", entry.change, tone="soft")
    if abs(entry.change) < _SMALLEST_CHANGE:
        return Cell("equal", 0.0, tone="soft")
    word, tone = ("better", "good") if entry.is_better else ("worse", "bad")
    return Cell(signed(entry.change), entry.change, word, tone)


def _pairs(title: str, kind: str, compared: Comparison, pairs: Mapping[str, tuple[Any, Any]]) -> Table:
    rows = [[Cell(key), *(Cell(_text(value)) for value in values)] for key, values in pairs.items()]
    rows, caption = at_most(rows, _MAX_ROWS, title)
    columns = [Column(kind), *(Column(column.name) for column in _columns(compared))]
    return Table(caption, columns, rows)


def _text(value: Any) -> str:
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
