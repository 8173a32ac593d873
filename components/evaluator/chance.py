"""Finds configured thresholds that a predictor reaches which ignores the image. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from components.evaluator.artifact import ALL, EvaluationResult, SliceMetrics
from components.evaluator.options import EvaluationOptions, bounds_by_class, bounds_of_slice
from trainer_module import tasks
from trainer_module.error_text import listed
from trainer_module.evaluation.spec import MetricSpec, in_scope

_MOST_NAMES = 2
_ROUNDING = 1e-9


class _Reached(NamedTuple):
    """A threshold at or below the level of chance.

    Attributes:
      setting: Its key in `[evaluation]`.
      metric: The metric.
      bound: The threshold.
      level: The level of chance.
      subject: The class or slice; empty for all examples.
    """

    setting: str
    metric: MetricSpec
    bound: float
    level: float
    subject: str = ""


def warnings(evaluation: EvaluationResult, options: EvaluationOptions) -> tuple[str, ...]:
    """Describes the thresholds at or below the level of chance, which the classes of the evaluated split determine.

    Args:
      evaluation: Values of the new model; only the support of the classes is read.
      options: From `EvaluationOptions.with_task_defaults`.

    Returns:
      One sentence per setting and metric.
    """
    cases_by_bound: dict[tuple[str, str], list[_Reached]] = {}
    for case in _reached(evaluation, options):
        cases_by_bound.setdefault((case.setting, case.metric.name), []).append(case)
    return tuple(_sentence(cases, evaluation.split) for cases in cases_by_bound.values())


def _reached(evaluation: EvaluationResult, options: EvaluationOptions) -> Iterator[_Reached]:
    # Not the stored descriptions: these have no functions.
    metrics = tasks.get(evaluation.task).evaluation.metrics(options.top_k)
    overall_metrics = {metric.name: metric for metric in in_scope(metrics, "overall")}
    class_metrics = {metric.name: metric for metric in in_scope(metrics, "per_class")}
    overall, *slices = evaluation.candidate
    for name, bound in (options.thresholds or {}).items():
        yield from _compare("thresholds", overall_metrics[name], bound, overall, evaluation.classes)
    for name, bound, class_name in bounds_by_class(options.class_thresholds, evaluation.classes):
        yield from _compare(
            "class_thresholds", class_metrics[name], bound, overall, evaluation.classes, class_name=class_name
        )
    for metrics_of_slice in slices:
        if metrics_of_slice.examples >= options.min_slice_examples:
            for name, bound in bounds_of_slice(options.slice_thresholds, metrics_of_slice):
                yield from _compare(
                    "slice_thresholds", overall_metrics[name], bound, metrics_of_slice, evaluation.classes
                )
            for name, bound in bounds_of_slice(options.slice_class_thresholds, metrics_of_slice):
                for class_name in metrics_of_slice.large_classes(options.min_slice_examples):
                    yield from _compare(
                        "slice_class_thresholds",
                        class_metrics[name],
                        bound,
                        metrics_of_slice,
                        evaluation.classes,
                        class_name=class_name,
                    )


def _compare(
    setting: str,
    metric: MetricSpec,
    bound: float,
    measured: SliceMetrics,
    classes: tuple[str, ...],
    class_name: str | None = None,
) -> Iterator[_Reached]:
    support = np.array([measured.support.get(name, 0) for name in classes], np.float64)
    if metric.chance is None or not support.any():
        return
    levels = np.asarray(metric.chance(support / support.sum()), np.float64)
    level = float(levels if class_name is None else levels[classes.index(class_name)])
    if np.isfinite(level) and not metric.is_better(
        bound, level + (_ROUNDING if metric.higher_is_better else -_ROUNDING)
    ):
        subject = class_name or (measured.name if measured.name != ALL else "")
        yield _Reached(setting, metric, bound, level, subject)


def _sentence(cases: list[_Reached], split: str) -> str:
    setting, metric, bound, level, subject = max(cases, key=lambda case: case.level)
    where = f" ({listed([case.subject for case in cases], _MOST_NAMES)})" if subject else ""
    side = "above" if metric.higher_is_better else "below"
    example = f", `{subject}`" if len(cases) > 1 else ""
    return (
        f"evaluation.{setting}: {metric.name} = {bound:.4g}{where} is not {side} chance: on the {split} split, "
        f"{level:.4g} is reached without reading the image{example}. Set a bound {side} it."
    )
