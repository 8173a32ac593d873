"""Holds the figures of a model against what it must reach. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from components.evaluator import metric_names
from components.evaluator.figures import Evaluation, Gate, Gates, SliceFigures
from components.evaluator.options import Bounds, EvaluationOptions, names_of

_PREFIX = "evaluation."
_ROUNDING = 1e-9  # 0.9 - 0.3 is a little more than 0.6


def judge(evaluation: Evaluation, options: EvaluationOptions) -> Gates:
    """Applies every rule to every figure that it names.

    Args:
      evaluation: Figures of the new model and, where there is one, of the last blessed one.
      options: With the defaults of the task.

    Returns:
      The verdicts, in the order of the rules. TFMA's own thresholds are not used: they know neither a smallest number
      of examples nor classes of a derived metric.
    """
    overall, *slices = evaluation.candidate
    before = evaluation.overall_before
    gates: list[Gate] = []
    for metric, bound in (options.thresholds or {}).items():
        gates.append(_absolute("thresholds", metric, overall, bound))
    for metric, bound, name in _per_name(options.class_thresholds, evaluation.classes):
        gates.append(_absolute("class_thresholds", metric, overall, bound, class_name=name))
    for figures in slices:
        for metric, bound in _of_slice(options.slice_thresholds, figures):
            reason = _unheld(figures, metric, options)
            gates.append(_absolute("slice_thresholds", metric, figures, bound, reason=reason))
    gates.extend(_missing(options.slice_thresholds, overall, slices))
    for metric, allowed in options.slice_gaps.items():
        gates.append(_gap(metric, allowed, overall, slices, options))
    for metric, allowed in (options.change_thresholds or {}).items():
        gates.append(_change("change_thresholds", metric, overall, before, allowed))
    for metric, allowed, name in _per_name(options.class_change_thresholds, evaluation.classes):
        gates.append(_change("class_change_thresholds", metric, overall, before, allowed, class_name=name))
    return Gates(has_baseline=evaluation.baseline is not None, gates=gates)


def _per_name(bounds: Bounds, names: Iterable[str]) -> Iterator[tuple[str, float, str]]:
    """(metric, bound, class) of a rule that holds for every class, or for those that it names."""
    for metric, said in bounds.items():
        by_name = said if isinstance(said, dict) else dict.fromkeys(names, said)
        for name in names:
            if name in by_name:
                yield metric, by_name[name], name


def _of_slice(bounds: Bounds, figures: SliceFigures) -> Iterator[tuple[str, float]]:
    """(metric, bound) of the rules for a slice: by its name, by that of its features, or for every slice."""
    for metric, said in bounds.items():
        if not isinstance(said, dict):
            yield metric, said
        elif name := next((name for name in names_of(figures.key) if name in said), None):
            yield metric, said[name]


def _missing(bounds: Bounds, overall: SliceFigures, slices: list[SliceFigures]) -> Iterator[Gate]:
    """What is demanded of slices that no example belongs to: said, so that a misspelt value is seen."""
    known = {name for figures in slices for name in names_of(figures.key)}
    for metric, said in bounds.items():
        by_name = said if isinstance(said, dict) else {}
        for name in [name for name in by_name if name not in known]:
            nothing = overall.model_copy(update={"name": name, "metrics": {metric_names.EXAMPLES: 0.0}})
            reason = "no example belongs to this slice"
            yield _gate("slice_thresholds", metric, nothing, None, math.nan, by_name[name], reason, "")


def _unheld(figures: SliceFigures, metric: str, options: EvaluationOptions) -> str:
    """Why nothing is held against a slice; empty if there is no reason."""
    count, least = _count(figures), options.min_slice_examples
    if count < least:
        return f"{count} examples, fewer than evaluation.min_slice_examples = {least}"
    # Unlike of all examples: that a slice has one class only is no fault of the model.
    return _why_not(metric) if math.isnan(_figure(figures, metric, None)) else ""


def _absolute(
    rule: str, metric: str, figures: SliceFigures, bound: float, *, class_name: str | None = None, reason: str = ""
) -> Gate:
    value = _figure(figures, metric, class_name)
    higher = metric_names.higher_is_better(metric)
    side = "at least" if higher else "at most"
    return _gate(rule, metric, figures, class_name, value, bound, reason, f"must be {side} {bound:.4g}")


def _change(
    rule: str,
    metric: str,
    figures: SliceFigures,
    before: SliceFigures | None,
    allowed: float,
    *,
    class_name: str | None = None,
) -> Gate:
    value = _figure(figures, metric, class_name)
    if before is None:
        return _gate(rule, metric, figures, class_name, value, math.nan, "no model was blessed before", "")
    old = _figure(before, metric, class_name)
    if math.isnan(old):
        reason = "the last blessed model has no such figure"
        return _gate(rule, metric, figures, class_name, value, math.nan, reason, "")
    bound = old - allowed if metric_names.higher_is_better(metric) else old + allowed
    return _gate(
        rule,
        metric,
        figures,
        class_name,
        value,
        bound,
        "",
        f"may be {allowed:.4g} worse than the last blessed model's {old:.4f}",
    )


def _gap(
    metric: str, allowed: float, overall: SliceFigures, slices: list[SliceFigures], options: EvaluationOptions
) -> Gate:
    """One verdict, on the worst of the slices that are large enough."""
    value = _figure(overall, metric, None)
    higher = metric_names.higher_is_better(metric)
    bound = value - allowed if higher else value + allowed
    large = [figures for figures in slices if _count(figures) >= options.min_slice_examples]
    known = [figures for figures in large if not _unheld(figures, metric, options)]
    if not known:
        reason = _why_not(metric) if large else f"no slice has {options.min_slice_examples} examples"
        return _gate("slice_gaps", metric, overall, None, value, bound, reason, "")
    worst = min(known, key=lambda figures: _figure(figures, metric, None) * (1 if higher else -1))
    rule = f"may be {allowed:.4g} worse than the {value:.4f} of all examples"
    return _gate("slice_gaps", metric, worst, None, _figure(worst, metric, None), bound, "", rule)


def _gate(
    rule: str,
    metric: str,
    figures: SliceFigures,
    class_name: str | None,
    value: float,
    bound: float,
    reason: str,
    demand: str,
) -> Gate:
    """A verdict; with a reason why there is none, none."""
    higher = metric_names.higher_is_better(metric)
    passed: bool | None = None
    if reason:
        detail = f"is not held against anything: {reason}"
    elif math.isnan(value):
        # What does not exist cannot be said to reach a bound.
        passed, detail = False, f"does not exist: {_why_not(metric)}; it {demand}"
    else:
        passed = value >= bound - _ROUNDING if higher else value <= bound + _ROUNDING
        detail = f"is {value:.4f}; it {demand}"
    return Gate(
        rule=_PREFIX + rule,
        metric=metric,
        slice=figures.name,
        class_name=class_name,
        value=value,
        bound=bound,
        higher_is_better=higher,
        examples=_count(figures),
        passed=passed,
        detail=detail,
    )


def _why_not(metric: str) -> str:
    """Why there is no such figure."""
    if metric in ("auc", "macro_auc"):
        return "it needs examples of the class and of others"
    return "there are no examples for it"


def _figure(figures: SliceFigures, metric: str, class_name: str | None) -> float:
    holder: Mapping[str, float] = figures.metrics if class_name is None else figures.per_class[class_name]
    return holder[metric]


def _count(figures: SliceFigures) -> int:
    return round(figures.metrics[metric_names.EXAMPLES])
