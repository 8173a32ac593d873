"""The plots of an object detector: precision by recall of every class, and the types of errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainer_module.evaluation.box_matching import ERROR_TYPES
from trainer_module.evaluation.plots import Bar, BarPlot, Curve, CurvePlot, EvaluatedValues, MarkedPoint, PlotGroup
from trainer_module.evaluation.ranked_outcomes import RECALLS

# Classes with a plot, the weakest first; the table of classes has all.
MAX_PLOTTED_CLASSES = 24


def plots(values: EvaluatedValues, meanings: Mapping[str, str]) -> tuple[PlotGroup, ...]:
    """Describes the plots.

    Args:
      values: The values of all examples.
      meanings: Type of error → its meaning, as a clause.

    References: Lin et al. 2014, https://arxiv.org/abs/1405.0312 (curves); Bolya et al. 2020,
    https://arxiv.org/abs/2008.08115, section 2.3 (importance of errors).
    """
    if not values.details:
        return ()
    curves = _precision_and_recall(values)
    groups = [curves] if curves.plots else []
    if not all(math.isnan(_lost(values, name)) for name in ERROR_TYPES):
        groups.append(_errors(values, meanings))
    return tuple(groups)


def _precision_and_recall(values: EvaluatedValues) -> PlotGroup:
    details = values.details
    (threshold,) = details["served_threshold"][0]
    rows = [
        _curves_of_class(name, metrics, details["precision_by_recall"][index], details["precision_by_recall_75"][index])
        for index, (name, metrics) in enumerate(values.class_metrics.items())
    ]
    defined = sorted((row for row in rows if row is not None), key=lambda row: (row[0], row[1].title))
    shown = tuple(plot for _, plot in defined[:MAX_PLOTTED_CLASSES])
    selection = f"The {len(shown)} weakest of {len(defined)} classes" if len(defined) > len(shown) else "Every class"
    return PlotGroup(
        heading="Precision and recall",
        text=f"{selection}, the weakest first. A curve falls where detections of lower score add more errors than "
        f"objects. The point is the served threshold, {threshold:.3g}; a higher one moves it to the left, a lower one "
        "to the right.",
        plots=shown,
    )


def _curves_of_class(
    name: str, metrics: Mapping[str, float], precision: Sequence[float], precision_75: Sequence[float]
) -> tuple[float, CurvePlot] | None:
    """Returns AP50 and the curves of a class; None if it has no objects."""
    ap50, ap75, served_recall, served_precision = (
        metrics.get(key, math.nan) for key in ("class_ap50", "class_ap75", "recall", "precision")
    )
    if math.isnan(ap50):
        return None
    point = None
    if not math.isnan(served_recall + served_precision):
        text = f"{name}, as served: recall {served_recall:.3f}, precision {served_precision:.3f}"
        point = MarkedPoint("Served threshold", served_recall, served_precision, text)
    plot = CurvePlot(
        title=name,
        description=f"AP50 {ap50:.3f}, AP75 {ap75:.3f}",
        x_label="Recall",
        y_label="Precision",
        curves=(
            Curve("IoU 0.5", _points(precision)),
            Curve("IoU 0.75", _points(precision_75)),
        ),
        point=point,
    )
    return ap50, plot


def _points(precision: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Returns (recall, precision) up to the largest recall that is reached, from which the precision is 0."""
    reached = max((index for index, value in enumerate(precision) if value > 0), default=-1)
    points = [(float(recall), float(value)) for recall, value in zip(RECALLS, precision, strict=True)][: reached + 1]
    if 0 <= reached < len(RECALLS) - 1:
        points.append((points[-1][0], 0.0))
    return tuple(points)


def _lost(values: EvaluatedValues, error_type: str) -> float:
    return values.metrics.get(f"ap_lost_{error_type}", math.nan)


def _errors(values: EvaluatedValues, meanings: Mapping[str, str]) -> PlotGroup:
    lost = {name: _lost(values, name) for name in ERROR_TYPES}
    total = sum(value for value in lost.values() if value > 0)
    bars = [
        Bar(
            name=name.capitalize(),
            value=0.0 if math.isnan(value) else value,
            text=f"{value:.4f}",
            share=f"{value / total:.0%}" if total else "0%",
            meaning=f"{meanings[name][0].upper()}{meanings[name][1:]}.",
        )
        for name, value in sorted(lost.items(), key=lambda item: -item[1])
    ]
    return PlotGroup(
        heading="Types of errors",
        text=f"By how much AP50, {values.metrics.get('ap50', math.nan):.4f}, would rise if all errors of one type were "
        "corrected. Every detection counts, whatever its score. The rises do not add up to what is missing to 1: "
        "correcting two types together can gain more, or less.",
        plots=(BarPlot(title="AP50 lost", name_label="Type of error", value_label="AP50 lost", bars=tuple(bars)),),
    )
