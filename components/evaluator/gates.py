"""Holds the figures of a model against what it must reach. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from components.evaluator import metric_names
from components.evaluator.figures import ALL, Evaluation, Gate, Gates, SliceFigures
from components.evaluator.options import Bounds, EvaluationOptions

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
    before = {figures.name: figures for figures in evaluation.baseline or ()}
    gates: list[Gate] = []
    for metric, bound in (options.thresholds or {}).items():
        gates.append(_absolute("thresholds", metric, overall, bound))
    for metric, bound, name in _per_name(options.class_thresholds, evaluation.classes):
        gates.append(_absolute("class_thresholds", metric, overall, bound, class_name=name))
    for figures in slices:
        for metric, bound in _of_slice(options.slice_thresholds, figures.name):
            reason = _too_few(figures, options)
            gates.append(_absolute("slice_thresholds", metric, figures, bound, reason=reason))
    gates.extend(_missing(options.slice_thresholds, overall, slices))
    for metric, allowed in options.slice_gaps.items():
        gates.extend(_gaps(metric, allowed, overall, slices, options))
    for metric, allowed in (options.change_thresholds or {}).items():
        gates.append(_change("change_thresholds", metric, overall, before.get(ALL), allowed))
    for metric, allowed, name in _per_name(options.class_change_thresholds, evaluation.classes):
        gates.append(_change("class_change_thresholds", metric, overall, before.get(ALL), allowed, class_name=name))
    return Gates(has_baseline=evaluation.baseline is not None, gates=gates)


def _per_name(bounds: Bounds, names: Iterable[str]) -> Iterator[tuple[str, float, str]]:
    """(metric, bound, class) of a rule that holds for every class, or for those that it names."""
    for metric, said in bounds.items():
        by_name = said if isinstance(said, dict) else dict.fromkeys(names, said)
        for name in names:
            if name in by_name:
                yield metric, by_name[name], name


def _of_slice(bounds: Bounds, name: str) -> Iterator[tuple[str, float]]:
    """(metric, bound) of the rules for a slice: by its name, by that of its feature, or for every slice."""
    for metric, said in bounds.items():
        if not isinstance(said, dict):
            yield metric, said
            continue
        by_name = {_canonical(key): bound for key, bound in said.items()}
        for key in (name, _features(name)):
            if key in by_name:
                yield metric, by_name[key]
                break


def _canonical(name: str) -> str:
    """A cross as TFMA names it, its parts in alphabetical order."""
    return ", ".join(sorted(name.split(", ")))


def _features(name: str) -> str:
    """`brightness` of `brightness = dark`, `brightness, camera` of `brightness = dark, camera = b`."""
    return ", ".join(part.partition(" = ")[0] for part in name.split(", "))


def _missing(bounds: Bounds, overall: SliceFigures, slices: list[SliceFigures]) -> Iterator[Gate]:
    """What is demanded of slices that no example belongs to: said, so that a misspelt value is seen."""
    known = {name for figures in slices for name in (figures.name, _features(figures.name))}
    for metric, said in bounds.items():
        by_name = said if isinstance(said, dict) else {}
        for name in [name for name in by_name if _canonical(name) not in known]:
            nothing = overall.model_copy(update={"name": name, "metrics": {metric_names.EXAMPLES: 0.0}})
            reason = "not held against anything: no example belongs to this slice"
            yield _gate("slice_thresholds", metric, nothing, None, math.nan, by_name[name], reason, "")


def _too_few(figures: SliceFigures, options: EvaluationOptions) -> str:
    count = _count(figures)
    if count >= options.min_slice_examples:
        return ""
    least = options.min_slice_examples
    return f"not held against anything: {count} examples, fewer than evaluation.min_slice_examples = {least}"


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
        reason, bound = "not held against anything: no model was blessed before", math.nan
        return _gate(rule, metric, figures, class_name, value, bound, reason, "")
    old = _figure(before, metric, class_name)
    if math.isnan(old):
        reason = "not held against anything: the last blessed model has no such figure"
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
        f"the last blessed model's is {old:.4f}, and {allowed:.4g} worse is allowed",
    )


def _gaps(
    metric: str, allowed: float, overall: SliceFigures, slices: list[SliceFigures], options: EvaluationOptions
) -> list[Gate]:
    """One verdict, on the worst of the slices that are large enough."""
    value = _figure(overall, metric, None)
    higher = metric_names.higher_is_better(metric)
    bound = value - allowed if higher else value + allowed
    large = [
        figures
        for figures in slices
        if not _too_few(figures, options) and not math.isnan(_figure(figures, metric, None))
    ]
    if not large:
        reason = f"not held against anything: no slice has {options.min_slice_examples} examples"
        return [_gate("slice_gaps", metric, overall, None, value, bound, reason, "")]
    worst = min(large, key=lambda figures: _figure(figures, metric, None) * (1 if higher else -1))
    rule = f"all examples have {value:.4f}, and the worst slice may be {allowed:.4g} worse"
    return [_gate("slice_gaps", metric, worst, None, _figure(worst, metric, None), bound, "", rule)]


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
    detail = reason
    if not reason:
        # A figure that does not exist cannot be said to reach a bound.
        passed = value >= bound - _ROUNDING if higher else value <= bound + _ROUNDING
        detail = f"{value:.4f}; {demand}" if not math.isnan(value) else f"does not exist, {_why(class_name)}; {demand}"
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


def _why(class_name: str | None) -> str:
    return "since there are no examples" + (" of this class" if class_name else "")


def _figure(figures: SliceFigures, metric: str, class_name: str | None) -> float:
    holder: Mapping[str, float] = figures.metrics if class_name is None else figures.per_class[class_name]
    return holder[metric]


def _count(figures: SliceFigures) -> int:
    return round(figures.metrics[metric_names.EXAMPLES])
