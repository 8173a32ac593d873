"""Converts TFMA's files into the stored evaluation."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma

from components.evaluator.artifact import ALL, ConfidenceInterval, EvaluationResult, ReliabilityBin, SliceMetrics
from components.evaluator.metrics import DETAILS, EVIDENCE, SUPPORT
from components.evaluator.options import slice_name
from trainer_module import features, tasks
from trainer_module.evaluation.baselines import Evidence
from trainer_module.evaluation.spec import MetricSpec, in_scope

_EXAMPLE_COUNT = "example_count"

# TFMA's JSON of one metric of a slice.
_TfmaValue = dict[str, Any]


def read(
    evaluation_uri: str, *, task: str, split: str, classes: tuple[str, ...], top_k: int, has_baseline: bool
) -> EvaluationResult:
    """Reads TFMA's results of one or two models.

    Args:
      evaluation_uri: Folder that TFMA wrote to.
      task: Name of the task.
      split: The evaluated split.
      classes: Class names; the index is the id.
      top_k: The k of the top-k accuracy.
      has_baseline: Whether a baseline was evaluated too; only then TFMA gives the models names.
    """
    evaluation = tasks.get(task).evaluation
    metrics, matrix_size = evaluation.metrics(top_k), len(classes) + evaluation.has_background

    def slices(model_name: str | None) -> tuple[SliceMetrics, ...]:
        loaded = tfma.load_eval_result(evaluation_uri, model_name=model_name)
        plots = dict(loaded.plots)  # without any plot, TFMA returns None for each slice
        rows = [
            _slice_metrics(
                key, _only_output(outputs), _only_output(plots.get(key) or {"": {}}), metrics, classes, matrix_size
            )
            for key, outputs in loaded.slicing_metrics
        ]
        return tuple(sorted(rows, key=lambda row: (row.name != ALL, row.name)))

    return EvaluationResult(
        task=task,
        split=split,
        classes=classes,
        count_unit=evaluation.count_unit,
        metrics=metrics,
        candidate=slices(tfma.CANDIDATE_KEY if has_baseline else None),
        baseline=slices(tfma.BASELINE_KEY) if has_baseline else None,
    )


def read_evidence(evaluation_uri: str, *, has_baseline: bool) -> Evidence:
    """Reads what the default rules are computed from: the new model's counts over all examples.

    Args:
      evaluation_uri: Folder that TFMA wrote to.
      has_baseline: Whether a baseline was evaluated too.
    """
    loaded = tfma.load_eval_result(evaluation_uri, model_name=tfma.CANDIDATE_KEY if has_baseline else None)
    (overall,) = (_only_output(outputs)[""] for key, outputs in loaded.slicing_metrics if not key)
    return {name: np.array(counts, np.int64) for name, counts in _arrays(overall, EVIDENCE).items()}


def _arrays(values: dict[str, _TfmaValue], key: str) -> dict[str, Any]:
    """Reads the lists of numbers that a metric contains as JSON; none if there is no such metric."""
    stored: dict[str, Any] = json.loads(base64.b64decode(values[key]["bytesValue"])) if key in values else {}
    return stored


def _only_output(by_output: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """TFMA groups metrics and plots by output of the model; these have one group."""
    (group,) = by_output.values()
    return group


def _slice_metrics(
    key: tuple[tuple[str, Any], ...],
    by_sub_key: dict[str, dict[str, _TfmaValue]],
    plots_by_sub_key: dict[str, dict[str, Any]],
    metrics: tuple[MetricSpec, ...],
    classes: tuple[str, ...],
    matrix_size: int,
) -> SliceMetrics:
    overall, plots = by_sub_key[""], plots_by_sub_key.get("", {})
    by_class = {name: by_sub_key[f"classId:{class_id}"] for class_id, name in enumerate(classes)}
    overall_metrics, class_metrics = in_scope(metrics, "overall"), in_scope(metrics, "per_class")
    parts = tuple((name.removeprefix(features.SLICE_PREFIX), str(value)) for name, value in key)
    class_intervals = {name: _intervals(values, class_metrics) for name, values in by_class.items()}
    return SliceMetrics(
        name=slice_name(parts),
        key=parts,
        examples=round(_number(overall[_EXAMPLE_COUNT])),
        metrics=_numbers(overall, overall_metrics),
        support={name: round(_number(values[SUPPORT])) for name, values in by_class.items()},
        class_metrics={name: _numbers(values, class_metrics) for name, values in by_class.items()},
        confusion_matrix=[] if parts else _confusion_matrix(plots, matrix_size),
        reliability=_reliability(plots),
        details={} if parts else _arrays(overall, DETAILS),
        intervals=_intervals(overall, overall_metrics),
        class_intervals={name: intervals for name, intervals in class_intervals.items() if intervals},
    )


def _numbers(values: dict[str, _TfmaValue], metrics: tuple[MetricSpec, ...]) -> dict[str, float]:
    return {metric.name: _number(values[metric.name]) for metric in metrics}


def _number(value: _TfmaValue) -> float:
    """TFMA's value as a number; of a value with an interval, the point estimate."""
    for kind in ("doubleValue", "boundedValue"):
        if kind in value:
            inner = value[kind]
            return float(inner.get("value", 0.0) if isinstance(inner, dict) else inner)
    return math.nan


def _intervals(values: dict[str, _TfmaValue], metrics: tuple[MetricSpec, ...]) -> dict[str, ConfidenceInterval]:
    intervals = {}
    for metric in metrics:
        bounded = values[metric.name].get("boundedValue", {})
        low, high = (float(bounded.get(end, math.nan)) for end in ("lowerBound", "upperBound"))
        if not math.isnan(low + high):
            # The intervals are symmetrical and may exceed the range of the metric.
            intervals[metric.name] = ConfidenceInterval(metric.clip(low), metric.clip(high))
    return intervals


def _confusion_matrix(plots: dict[str, Any], size: int) -> list[list[int]]:
    if "multiClassConfusionMatrixAtThresholds" not in plots:
        return []
    matrix = [[0] * size for _ in range(size)]
    (stored,) = plots["multiClassConfusionMatrixAtThresholds"]["matrices"]
    for entry in stored.get("entries", ()):  # a proto as JSON omits values of 0
        actual, predicted = int(entry.get("actualClassId", 0)), int(entry.get("predictedClassId", 0))
        matrix[actual][predicted] = round(entry.get("numWeightedExamples", 0.0))
    return matrix


def _reliability(plots: dict[str, Any]) -> tuple[ReliabilityBin, ...]:
    bins = []
    for bucket in plots.get("calibrationHistogramBuckets", {}).get("buckets", ()):
        count = round(bucket.get("numWeightedExamples", 0.0))
        sums = (bucket.get("totalWeightedRefinedPrediction", 0.0), bucket.get("totalWeightedLabel", 0.0))
        confidence, accuracy = (total / count if count else math.nan for total in sums)
        bins.append(
            ReliabilityBin(
                lower=bucket.get("lowerThresholdInclusive", 0.0),
                upper=bucket["upperThresholdExclusive"],
                count=count,
                confidence=confidence,
                accuracy=accuracy,
            )
        )
    return tuple(bins)
