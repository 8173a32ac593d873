"""Compares two runs of a pipeline: metrics, settings and data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.evaluator.artifact import EvaluationResult
from pipeline.history.run_history import Run, finite
from trainer_module.evaluation.spec import MetricSpec

Row = Mapping[str, float]  # metric → value, and a count
Table = Mapping[str, Row]  # class or slice → row


class Difference(NamedTuple):
    """A value of two runs.

    Attributes:
      first: Value of the first run; None if it is undefined or missing.
      second: Value of the second run.
      metric: The metric; None for counts, such as the number of examples.
    """

    first: float | None
    second: float | None
    metric: MetricSpec | None = None

    @property
    def change(self) -> float | None:
        """The second value minus the first; None if one is missing."""
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def is_better(self) -> bool | None:
        """Whether the second value is better; None for equal or missing values, and for counts."""
        if not self.change or self.metric is None:
            return None
        return (self.change > 0) == self.metric.higher_is_better

    @property
    def gain(self) -> float:
        """The improvement of the value; infinite if one is missing."""
        if self.change is None:
            return math.inf
        return self.change if self.metric is None or self.metric.higher_is_better else -self.change


Differences = dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """The differences of two runs.

    Attributes:
      first: The first run.
      second: The second run.
      evaluation: The evaluation whose metrics the tables of classes and slices show; None if neither run has one, or
        their tasks differ.
      metrics: All metrics over all examples, and `examples`.
      classes: Class → metric; worst change of the main metric of classes first.
      slices: Slice → metric; worst change of the main metric first.
      settings: `section.key` → the values of both runs, if they differ; None if a run has not stored the key.
      data: The same for properties of the dataset.
    """

    first: Run
    second: Run
    evaluation: EvaluationResult | None
    metrics: Differences
    classes: dict[str, Differences]
    slices: dict[str, Differences]
    settings: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]]


def compare(first: Run, second: Run) -> Comparison:
    """Compares two runs; values that only one of them has are kept."""
    evaluations = [run.evaluation for run in (first, second) if run.evaluation]
    same_task = len({evaluation.task for evaluation in evaluations}) == 1
    shared = evaluations[-1] if same_task else None
    metrics = {metric.name: metric for evaluation in evaluations for metric in evaluation.metrics}
    one, other = _values(first.evaluation), _values(second.evaluation)
    return Comparison(
        first,
        second,
        shared,
        _differences(one.overall, other.overall, metrics),
        _table(one.classes, other.classes, metrics, shared.main_class_metric if shared else None),
        _table(one.slices, other.slices, metrics, shared.main_metric if shared else None),
        _pairs_that_differ(first.settings, second.settings),
        _pairs_that_differ(_data_of(first), _data_of(second)),
    )


class _Values(NamedTuple):
    """The values of one run over all examples, by class and by slice."""

    overall: Row
    classes: Table
    slices: Table


def _values(evaluation: EvaluationResult | None) -> _Values:
    if evaluation is None:
        return _Values({}, {}, {})
    overall, *slices = evaluation.candidate
    by_slice = {row.name: row.metrics_and_examples for row in slices}
    return _Values(overall.metrics_and_examples, overall.class_metrics_and_support, by_slice)


def _differences(first: Row, second: Row, metrics: Mapping[str, MetricSpec]) -> Differences:
    return {
        name: Difference(finite(first.get(name, math.nan)), finite(second.get(name, math.nan)), metrics.get(name))
        for name in {**first, **second}
    }


def _table(
    first: Table, second: Table, metrics: Mapping[str, MetricSpec], ranked_by: MetricSpec | None
) -> dict[str, Differences]:
    """Returns the differences of all rows; the worst change of one metric first."""
    table = {name: _differences(first.get(name, {}), second.get(name, {}), metrics) for name in {**first, **second}}

    def rank(item: tuple[str, Differences]) -> tuple[float, str]:
        name, row = item
        return (row[ranked_by.name].gain if ranked_by and ranked_by.name in row else math.inf, name)

    return dict(sorted(table.items(), key=rank))


def _pairs_that_differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*first, *second})
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def _data_of(run: Run) -> dict[str, Any]:
    data: dict[str, Any] = {"fingerprint": run.fingerprint, "span": run.span, "examples": run.examples}
    if run.audit:
        data |= {f"suspects.{reason}": number for reason, number in run.audit.reasons.items()}
    for split, counts in run.splits.items():
        data[f"examples.{split}"] = counts.examples
        data |= {f"examples.{split}.{name}": count for name, count in counts.classes.items()}
    return data
