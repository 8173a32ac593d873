"""Compares the measured faithfulness of explanations with its thresholds."""

from __future__ import annotations

from collections.abc import Mapping

from components.grad_cam.artifact import FaithfulnessReport, FaithfulnessResult
from trainer_module import faithfulness, tasks
from trainer_module.faithfulness import FaithfulnessMetric
from trainer_module.options import TrainerOptions

# Mean of a metric and number of predictions for which it is defined.
MeanAndCount = tuple[float, int]


def report(options: TrainerOptions, split: str, means: Mapping[str, MeanAndCount]) -> FaithfulnessReport:
    """Compares every metric of the task with its threshold.

    Args:
      options: The configuration of the run.
      split: The explained split.
      means: By name of the metric; one that was undefined for all predictions is missing.
    """
    explained, explanation = options.grad_cam, tasks.get(options.task.name).explanation
    metrics = faithfulness.metrics_of(explanation) if explained.faithfulness else ()
    return FaithfulnessReport(
        split=split,
        method=explanation.method(explained.method),
        layer=explained.layer,
        steps=explained.faithfulness_steps,
        num_predictions=max((count for _, count in means.values()), default=0),
        results=tuple(
            compare(metric, means.get(metric.name), explained.thresholds.get(metric.name)) for metric in metrics
        ),
    )


def compare(metric: FaithfulnessMetric, mean: MeanAndCount | None, bound: float | None) -> FaithfulnessResult:
    """Compares one metric with its bound; an undefined value does not meet any bound.

    Args:
      metric: The metric.
      mean: Its value; None if it is undefined.
      bound: Its threshold; None if there is none.
    """
    value, count = mean or (None, 0)
    if bound is None:
        return FaithfulnessResult(metric=metric, value=value, count=count)
    requirement = f"must be at {'least' if metric.higher_is_better else 'most'} {bound:.4g}"
    if value is None:
        passed, detail = False, f"{metric.name} is undefined: {metric.undefined_when}; it {requirement}"
    else:
        passed = not metric.is_better(bound, value)
        detail = f"{metric.name} is {value:.4f}; it {requirement}"
    return FaithfulnessResult(metric=metric, value=value, count=count, bound=bound, passed=passed, detail=detail)
