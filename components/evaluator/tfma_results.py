"""TFMA's files → what is stored of an evaluation."""

from __future__ import annotations

import math
from typing import Any

import tensorflow_model_analysis as tfma

from components.evaluator import metric_names, options
from components.evaluator.figures import ALL, Bin, Evaluation, SliceFigures, Task
from trainer_module import features

_EXAMPLE_COUNT = "example_count"
_CLASS = "classId:"


def read(
    evaluation_uri: str, *, task: Task, split: str, classes: list[str], top_k: int, has_baseline: bool
) -> Evaluation:
    """Reads TFMA's figures of one model, or of two.

    Args:
      evaluation_uri: Where TFMA wrote.
      task: `classification` or `segmentation`.
      split: The evaluated split.
      classes: Class names; the index is the id.
      top_k: The k of the top-k accuracy.
      has_baseline: Whether another model was evaluated beside it; only then TFMA has given them names.
    """

    def slices(model_name: str | None) -> list[SliceFigures]:
        loaded = tfma.load_eval_result(evaluation_uri, model_name=model_name)
        plots = dict(loaded.plots)
        found = [
            _slice_figures(key, next(iter(by_output.values())), plots[key], task, classes, top_k)
            for key, by_output in loaded.slicing_metrics
        ]
        return sorted(found, key=lambda figures: (figures.name != ALL, figures.name))

    return Evaluation(
        task=task,
        split=split,
        classes=classes,
        candidate=slices(tfma.CANDIDATE_KEY if has_baseline else None),
        baseline=slices(tfma.BASELINE_KEY) if has_baseline else None,
    )


def _slice_figures(
    key: tuple[tuple[str, Any], ...],
    by_sub_key: dict[str, dict[str, Any]],
    plots_by_output: dict[str, Any],
    task: str,
    classes: list[str],
    top_k: int,
) -> SliceFigures:
    overall = by_sub_key[""]
    names = metric_names.overall(task, top_k)
    figures = {name: _number(overall[name]) for name in names}
    figures[metric_names.EXAMPLES] = _number(overall[_EXAMPLE_COUNT])
    shown = (*metric_names.PER_CLASS[task], metric_names.SUPPORT)
    of_class = {name: by_sub_key[f"{_CLASS}{class_id}"] for class_id, name in enumerate(classes)}
    plots = next(iter(plots_by_output.values()))[""]
    parts = [(name.removeprefix(features.SLICE_PREFIX), str(value)) for name, value in key]
    return SliceFigures(
        name=options.slice_name(parts),
        key=parts,
        metrics=figures,
        per_class={name: {figure: _number(values[figure]) for figure in shown} for name, values in of_class.items()},
        confusion=[] if parts else _confusion(plots, len(classes)),
        reliability=_reliability(plots),
        intervals=_intervals({name: overall[name] for name in names}),
        class_intervals={
            name: found
            for name, values in of_class.items()
            if (found := _intervals({figure: values[figure] for figure in metric_names.PER_CLASS[task]}))
        },
    )


def _number(value: dict[str, Any]) -> float:
    """TFMA's value as a number; of one with an interval the point estimate."""
    for kind in ("doubleValue", "boundedValue"):
        if kind in value:
            inner = value[kind]
            return float(inner.get("value", 0.0) if isinstance(inner, dict) else inner)
    return math.nan


def _intervals(values: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, value in values.items():
        bounded = value.get("boundedValue", {})
        low, high = (float(bounded.get(end, math.nan)) for end in ("lowerBound", "upperBound"))
        if not math.isnan(low + high):
            # The intervals are symmetrical, and the figures are not: what cannot be is cut off.
            found[name] = (max(low, 0.0), high if name == metric_names.UNBOUNDED else min(high, 1.0))
    return found


def _confusion(plots: dict[str, Any], num_classes: int) -> list[list[int]]:
    matrix = [[0] * num_classes for _ in range(num_classes)]
    (stored,) = plots["multiClassConfusionMatrixAtThresholds"]["matrices"]
    for entry in stored.get("entries", ()):  # a proto as JSON: what is 0 is left out
        actual, predicted = int(entry.get("actualClassId", 0)), int(entry.get("predictedClassId", 0))
        matrix[actual][predicted] = round(entry.get("numWeightedExamples", 0.0))
    return matrix


def _reliability(plots: dict[str, Any]) -> list[Bin]:
    bins = []
    for bucket in plots.get("calibrationHistogramBuckets", {}).get("buckets", ()):
        count = round(bucket.get("numWeightedExamples", 0.0))
        sums = (bucket.get("totalWeightedRefinedPrediction", 0.0), bucket.get("totalWeightedLabel", 0.0))
        confidence, accuracy = (total / count if count else math.nan for total in sums)
        bins.append(
            Bin(
                lower=bucket.get("lowerThresholdInclusive", 0.0),
                upper=bucket["upperThresholdExclusive"],
                count=count,
                confidence=confidence,
                accuracy=accuracy,
            )
        )
    return bins
